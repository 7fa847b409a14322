"""How sure a score and a difference are: over questions, over seeds, in families, and how much more it would take."""
