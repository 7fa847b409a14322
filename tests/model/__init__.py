"""Tests of firstsight.model."""
