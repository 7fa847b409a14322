"""Answers that exist already: read in any usual form, joined to their questions by identity, scored without a model."""
