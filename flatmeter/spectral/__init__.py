"""Matrix-free linear algebra over operators; knows no network."""
