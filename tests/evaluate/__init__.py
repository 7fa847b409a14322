"""Tests of firstsight.evaluate."""
