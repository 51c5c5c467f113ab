"""Bytes to named tensors and metadata; nothing in a file is ever executed."""

from flatmeter.checkpoint.checkpoint import Checkpoint
from flatmeter.checkpoint.find import checkpoints_in
from flatmeter.checkpoint.fit import fit
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.read import READERS, read
from flatmeter.checkpoint.recognise import recognise
from flatmeter.checkpoint.save import save

__all__ = [
    "READERS",
    "Checkpoint",
    "Format",
    "checkpoints_in",
    "fit",
    "read",
    "recognise",
    "save",
]
