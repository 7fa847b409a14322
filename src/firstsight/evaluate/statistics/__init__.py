"""Uncertainty of scores and differences: over questions, over seeds, over several comparisons; statistical power."""
