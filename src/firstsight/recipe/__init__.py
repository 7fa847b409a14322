"""What a study consists of, as frozen dataclasses (specs) that need only the standard library."""
