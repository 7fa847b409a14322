"""Evaluation: tasks, models, metrics and scores."""
