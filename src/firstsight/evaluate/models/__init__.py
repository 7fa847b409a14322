"""Models under evaluation: firstsight checkpoints and transformers models behind one interface."""
