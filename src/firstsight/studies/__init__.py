"""The shipped studies: one file a question."""
