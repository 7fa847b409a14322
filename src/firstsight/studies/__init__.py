"""The shipped studies: one module for each question."""
