"""Tests of firstsight.studies."""
