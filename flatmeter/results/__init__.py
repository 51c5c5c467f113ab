"""Records, the crash-safe store, tables and exporters."""
