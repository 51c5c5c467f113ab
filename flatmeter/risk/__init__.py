"""The loss as a pure function of the parameters, on fixed data."""
