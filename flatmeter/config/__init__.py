"""The schema of a run, its layers of YAML, and where each value came from."""
