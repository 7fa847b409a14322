"""Commands about weights: import and export."""
