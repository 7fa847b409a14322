"""Tests of firstsight.recipe."""
