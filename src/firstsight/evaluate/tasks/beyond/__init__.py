"""Benchmarks beyond the paper's: captions, college questions, and those that a user brings."""
