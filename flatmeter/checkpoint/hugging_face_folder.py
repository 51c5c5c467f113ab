"""Folders as transformers writes them: a configuration beside weights in one file or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.folder_file import folder_file
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.json_file import read_json
from flatmeter.checkpoint.recognise import recognise
from flatmeter.checkpoint.refusals import refuse_format, refuse_unknown
from flatmeter.checkpoint.safetensors_file import read_safetensors
from flatmeter.checkpoint.torch_file import read_torch_legacy, read_torch_zip
from flatmeter.errors import CheckpointRefused

#: Looked for in this order, as transformers does: safetensors first.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = ".index.json"
_READERS = {
    Format.SAFETENSORS: read_safetensors,
    Format.TORCH_ZIP: read_torch_zip,
    Format.TORCH_LEGACY: read_torch_legacy,
}


def read_hugging_face(folder: Path) -> Content:
    """Every tensor of a folder by name, and its ``config.json``.

    Raises:
        CheckpointRefused: a file is missing, damaged or outside of the folder, or the index and the
            files contradict each other.
    """
    name = next((name for name in _WEIGHTS if (folder / name).exists()), None)
    if name is None:
        raise CheckpointRefused(
            f"it holds none of {', '.join(_WEIGHTS)}",
            where=str(folder),
            hint="name the file of weights in it",
        )
    config = read_json(folder_file(folder, "config.json"))
    read = _sharded(folder, name) if name.endswith(_INDEX) else _one(folder, name)
    return Content(read, {"config": config})


def _one(folder: Path, name: Any) -> dict[str, Tensor]:
    path = folder_file(folder, name)
    found = recognise(path)
    if found is None:
        raise refuse_unknown(path)
    if found not in _READERS:
        raise refuse_format(path, found)
    value = _READERS[found](path).value
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise CheckpointRefused("it holds no weights by name", where=str(path))
    return value


def _sharded(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of all files that an index names, each as often and where it says."""
    path = folder_file(folder, name)
    index = read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointRefused("its weight_map is missing", where=str(path))
    if not all(isinstance(file, str) for file in places.values()):
        raise CheckpointRefused("its weight_map names what is no file", where=str(path))
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        for tensor, value in _one(folder, file).items():
            if places.get(tensor) != file:
                raise CheckpointRefused(
                    f"{file[:80]} holds {tensor[:80]}, which the index does not say",
                    where=str(folder),
                )
            tensors[tensor] = value
    missing = [tensor for tensor in places if tensor not in tensors]
    if missing:
        raise CheckpointRefused(
            f"{len(missing)} tensors are missing from the files that the index names: "
            f"{', '.join(missing[:3])[:200]}",
            where=str(folder),
            hint="fetch the whole folder again",
        )
    return {tensor: tensors[tensor] for tensor in places}
