"""Rows with their provenance, the folder that keeps them, and the tables that show them."""
