"""Deciding the claims of a study step by step: what to run next, and the record of the looks."""
