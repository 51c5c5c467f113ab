"""Data sources, seeded subsets, fixed batches."""
