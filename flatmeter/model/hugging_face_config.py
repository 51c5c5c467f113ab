"""What the ``config.json`` of a Hugging Face folder says, without importing transformers."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from flatmeter.checkpoint.folder_file import folder_file
from flatmeter.checkpoint.json_file import read_json
from flatmeter.errors import CheckpointRefused, UsageError

PREFIX = "hf:"
"""What ``--model`` begins with for the network of such a folder."""


class Head(Enum):
    """What a network's outputs are for; the value says it in words."""

    NEXT_TOKEN = "predicts the next token at every position"
    TOKENS = "gives every token a class"
    TEXT = "gives a text a class"
    IMAGE = "gives an image a class"

    @property
    def reads_text(self) -> bool:
        """Its inputs are tokens."""
        return self is not Head.IMAGE


#: The networks that are built, each compared with transformers' own in the tests.
ARCHITECTURES: Mapping[str, Head] = {
    "GPT2LMHeadModel": Head.NEXT_TOKEN,
    "GPT2ForSequenceClassification": Head.TEXT,
    "GPT2ForTokenClassification": Head.TOKENS,
    "LlamaForCausalLM": Head.NEXT_TOKEN,
    "LlamaForSequenceClassification": Head.TEXT,
    "LlamaForTokenClassification": Head.TOKENS,
    "BertForSequenceClassification": Head.TEXT,
    "BertForTokenClassification": Head.TOKENS,
    "BertForMaskedLM": Head.TOKENS,
    "ViTForImageClassification": Head.IMAGE,
}

#: Names of the same number in the configurations of different kinds of network.
_LAYERS = ("num_hidden_layers", "n_layer")
_POSITIONS = ("max_position_embeddings", "n_positions")
#: More than any network has: a number that is to be refused before it is obeyed.
_MOST = {**dict.fromkeys(_LAYERS, 1_000), "num_labels": 1_000_000, "_num_labels": 1_000_000}
#: Which machine or library wrote it changes no output.
PROVENANCE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class FolderConfig:
    """A configuration that a network can be built from.

    Args:
        path: of the file.
        values: what it says, with a person's own changes.
        architecture: class of transformers.
    """

    path: Path
    values: Mapping[str, Any]
    architecture: str

    @property
    def head(self) -> Head:
        """What the outputs are for."""
        return ARCHITECTURES[self.architecture]

    @property
    def loss(self) -> str | None:
        """The loss that such a network is trained with, where there is one."""
        if self.head is Head.NEXT_TOKEN:
            return "causal_lm"
        if self.classes == 1:
            return "mse"
        kinds = {"regression": "mse", "multi_label_classification": "bce"}
        return kinds.get(str(self.values.get("problem_type")))

    @property
    def positions(self) -> int | None:
        """Most tokens of a sequence."""
        return self._number(*_POSITIONS)

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens."""
        return self._number("vocab_size")

    @property
    def classes(self) -> int | None:
        """Number of outputs, of each token where every token has its own."""
        if self.head is Head.NEXT_TOKEN or self.architecture.endswith("MaskedLM"):
            return self.vocabulary
        names = self.values.get("id2label")
        # Two unless something else is said, as transformers has it.
        return len(names) if isinstance(names, dict) else self._number("num_labels") or 2

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of its images."""
        side, channels = self._number("image_size"), self._number("num_channels")
        known = self.head is Head.IMAGE and side
        return (channels or 3, side, side) if known and side else None

    @cached_property
    def digest(self) -> str:
        """Of everything in it that may change an output."""
        kept = {k: v for k, v in self.values.items() if k not in PROVENANCE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def _number(self, *names: str) -> int | None:
        found = (self.values.get(name) for name in names)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool)), None)


def read_config(source: str | Path, args: Mapping[str, Any] | None = None) -> FolderConfig:
    """The configuration of a folder.

    Args:
        source: the folder, or its ``config.json``.
        args: values that take the place of its own; ``architecture`` is the class of transformers.

    Raises:
        UsageError: there is no such file, or it has no value of such a name.
        CheckpointRefused: it is damaged, asks for code of its own, or describes a network that is
            not built; says which ones are.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise UsageError("no such file or folder", where=f"{PREFIX}{source}", hint="check --model")
    path = folder_file(source, "config.json") if source.is_dir() else source
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointRefused("it is no configuration of a network", where=str(path))
    changes = dict(args or {})
    architecture = changes.pop(_ARCHITECTURE, None)
    _check_changes(changes, values)
    values = {**values, **changes}
    _refuse_what_is_not_built(values, path)
    return FolderConfig(path, values, _settled(values, architecture, path))


def _check_changes(changes: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """A misspelt name would be kept by transformers and change nothing."""
    for name in changes:
        if name not in values and name != "tie_word_embeddings":
            close = difflib.get_close_matches(name, values, n=1)
            raise UsageError(
                f"config.json has no {name!r}",
                where="--model-arg",
                hint=f"did you mean {close[0]}?" if close else "see config.json for its names",
            )


def _refuse_what_is_not_built(values: Mapping[str, Any], path: Path) -> None:
    if values.get("auto_map"):
        named = values["auto_map"]
        code = ", ".join(map(str, named.values())) if isinstance(named, dict) else str(named)
        raise CheckpointRefused(
            f"its network is code that the folder brings along (auto_map: {code}), which is not "
            "run",
            where=str(path),
            hint="if you trust that code, import it yourself: --model net.py:factory",
        )
    if values.get("quantization_config"):
        raise CheckpointRefused(
            "its weights are quantised (quantization_config)",
            where=str(path),
            hint="measure the checkpoint that was quantised",
        )
    for name, most in _MOST.items():
        number = values.get(name)
        if isinstance(number, (int, float)) and number > most:
            raise CheckpointRefused(f"it says {name}: {number:g}", where=str(path))


def _settled(values: Mapping[str, Any], asked: Any, path: Path) -> str:
    """The class to build, one of :data:`ARCHITECTURES`."""
    said = values.get("architectures")
    listed = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    name = asked if asked is not None else listed[0] if listed else None
    if isinstance(name, str) and name in ARCHITECTURES:
        return str(name)
    kind = values.get("model_type")
    raise CheckpointRefused(
        f"networks of class {name} are not built by themselves"
        if name
        else f"its config.json does not say which class of transformers it is (model_type: {kind})",
        where=str(path),
        hint=f"known are {', '.join(ARCHITECTURES)}: name one by --model-arg architecture=CLASS; "
        "any other is built by a function of your own, --model net.py:factory:\n"
        "  from transformers import AutoConfig, AutoModelForCausalLM\n"
        "  def factory():\n"
        f"      config = AutoConfig.from_pretrained({str(path.parent)!r})\n"
        "      return AutoModelForCausalLM.from_config(config)",
    )
