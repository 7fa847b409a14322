"""Tests of firstsight.evaluate.tasks."""
