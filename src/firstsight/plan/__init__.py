"""Knowing: what will run, what it shares, what it costs."""
