"""One file per measure, each reading like its paper's section."""
