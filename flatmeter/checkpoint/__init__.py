"""Bytes to named tensors and metadata; nothing in a file is ever executed."""
