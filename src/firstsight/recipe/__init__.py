"""Wanting: what a study consists of, as pure values of the standard library."""
