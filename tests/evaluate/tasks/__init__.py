"""Tests of firstsight.evaluate.tasks and of the pictures that they ask about."""
