"""Several processes that share one measurement, each with a part of the data."""
