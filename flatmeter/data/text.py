"""Windows of a text file, as the tokenizer of a Hugging Face folder cuts it into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flatmeter.checkpoint.json_file import read_json
from flatmeter.data.dataset import Dataset
from flatmeter.data.subset import subset_indices, subset_note
from flatmeter.errors import DataError, FlatmeterError
from flatmeter.import_transformers import import_transformers

LENGTH = 128
"""Tokens of a window where nobody says another length and the network takes as many."""

_SETTINGS = "tokenizer_config.json"
TOKENIZERS = ("tokenizer.json", _SETTINGS, "vocab.json", "vocab.txt", "tokenizer.model")
"""Files by one of which a folder with a tokenizer is told."""


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer in a folder.

    Args:
        folder: with ``tokenizer.json``, or the older files of vocabularies.
        positions: most tokens that the network beside it takes, where that is known.
    """

    folder: Path
    positions: int | None = None

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text, with what the tokenizer adds to a text by itself.

        Raises:
            DataError: the folder has no tokenizer, or one that is code of its own.
        """
        found: list[int] = self._read()(text, verbose=False)["input_ids"]
        return found

    def _read(self) -> Any:
        transformers = import_transformers()
        self._refuse_code()
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise DataError(
                f"its tokenizer cannot be read: {type(error).__name__}: {first[:200]}",
                where=str(self.folder),
                hint="a folder has tokenizer.json, which tokenizer.save_pretrained(FOLDER) writes; "
                "or cut the text into tokens yourself and give integers [n, T] as FILE.pt",
            ) from error

    def _refuse_code(self) -> None:
        path = self.folder / _SETTINGS
        if not path.is_file():
            return
        try:
            settings = read_json(path)
        except FlatmeterError as error:
            raise DataError(error.message, where=str(path)) from error
        if isinstance(settings, dict) and settings.get("auto_map"):
            raise DataError(
                "its tokenizer is code that the folder brings along (auto_map), which is not run",
                where=str(path),
                hint="cut the text into tokens yourself and give integers [n, T] as FILE.pt",
            )


def load_text(
    path: Path,
    tokenizer: Tokenizer | None,
    *,
    name: str,
    length: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A text in windows of equal length, one after the other; each is a sample.

    Its tokens are also its targets: each is to be predicted from those before it in its window.

    Args:
        path: of the text, in UTF-8.
        tokenizer: to cut it with.
        name: of the source.
        length: tokens of a window, by default 128 or as many as the network takes.
        samples: size of a seeded subset of the windows, ``None`` for all.
        seed: of that subset.

    Raises:
        DataError: no such file, no tokenizer, or not a single window.
    """
    text = _read(path)
    if tokenizer is None:
        raise DataError(
            "a text needs the tokenizer that the network was trained with",
            where=name,
            hint="it is taken from a checkpoint that is a Hugging Face folder, or from the folder "
            "that --model hf:FOLDER names; or give tokens, integers [n, T], as FILE.pt",
        )
    most = tokenizer.positions
    if length is not None and most is not None and length > most:
        raise DataError(
            f"windows of {length:,} tokens are longer than the {most:,} that the network takes",
            where=name,
        )
    tokens = torch.tensor(tokenizer.tokens(text), dtype=torch.long)
    wanted = length or min(LENGTH, most or LENGTH)
    width = wanted if length else min(wanted, len(tokens))
    if len(tokens) < max(width, 2):
        raise DataError(
            f"it has {len(tokens):,} tokens, too few for a window of {max(width, 2):,}",
            where=str(path),
        )
    total = len(tokens) // width
    indices = subset_indices(total, samples, seed)
    windows = tokens[: total * width].reshape(total, width)[indices]
    return Dataset(
        inputs=windows,
        targets=windows,
        # Of another folder's tokenizer they are other data.
        name=f"{name}, tokenizer of {tokenizer.folder}",
        notes=_notes(len(tokens), width) + subset_note(total, len(indices), seed),
        source_size=total,
        loss="causal_lm",
    )


def _notes(count: int, width: int) -> tuple[str, ...]:
    left = count % width
    return (
        f"windows of {width:,} tokens, each of which is a sample: {count // width:,}"
        + (f"; left over at the end: {left:,} of {count:,} tokens" if left else ""),
    )


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="check --data")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror or error}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"it is no text in UTF-8: {error.reason} at byte {error.start:,}", where=str(path)
        ) from error
