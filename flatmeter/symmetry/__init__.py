"""Scaling symmetries read from the exported graph, and the geometry on top of them."""
