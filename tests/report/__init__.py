"""Tests of firstsight.report."""
