"""Commands about data: prepare it, look at it, prove what was read."""
