"""Tests of firstsight.recipe.scales."""
