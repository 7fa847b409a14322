"""Judging: tasks, metrics and scores."""
