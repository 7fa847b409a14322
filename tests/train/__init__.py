"""Tests of firstsight.train."""
