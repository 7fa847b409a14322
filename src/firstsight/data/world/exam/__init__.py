"""Evaluation in the built-in world: questions with held-out parts, in the benchmarks' own files."""
