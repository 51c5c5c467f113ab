"""One file per subcommand; parses and prints, computes nothing."""
