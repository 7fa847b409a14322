"""Telling: tables, claims, figures and the page."""
