"""Coverage-guided fuzzing of whatever recognises and reads checkpoints; run by hand.

``pip install atheris``, then ``python tests/fuzz/fuzz_checkpoints.py CORPUS -max_total_time=3600``:
CORPUS is a folder that fills with inputs. It begins with the hostile files of the tests. Findings
are files ``crash-*``; what is fixed is kept as a case of ``tests/helpers/hostile_files.py``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

with atheris.instrument_imports(include=["flatmeter", "zipfile", "pickletools"]):
    import hostile_files

    from flatmeter.checkpoint import fit, read, recognise, torch_file
    from flatmeter.errors import FlatmeterError
    from flatmeter.model.registry import build_model

#: Longer inputs show nothing that short ones do not.
_LONGEST = 16_000
_PLACE = Path(tempfile.mkdtemp())
_MARKER = _PLACE / "marker"
_NET = build_model("zoo:mlp")


def one_input(content: bytes) -> None:
    """A file, or by its first byte a file of a folder; anything but a refusal is a finding."""
    kind = content[:1]
    if kind == b"D":
        path = _folder({".metadata": content[1:], "__0_0.distcp": _part})
    elif kind == b"H":
        path = _folder({"config.json": b'{"model_type": "a"}', "model.safetensors": _shard,
                        "model.safetensors.index.json": content[1:]})  # fmt: skip
        (path / "model.safetensors").rename(path / "model-1.safetensors")
    else:
        path = _PLACE / "file"
        path.write_bytes(content)
    error = _refusal(path)
    if error is not None:
        assert error.exit_code in (3, 4), error
        assert len(error.message) <= 400
        assert "\n" not in error.message
    assert not _MARKER.exists()


def _refusal(path: Path) -> FlatmeterError | None:
    try:
        found = recognise(path)
        if found is not None and path.is_file():
            torch_file.pickled_names(path, found)
        fit(_NET, read(path))
    except FlatmeterError as error:
        return error
    return None


def _folder(files: dict[str, bytes]) -> Path:
    path = _PLACE / "folder"
    path.mkdir(exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def _begin(corpus: Path) -> None:
    """The tests' hostile files, each once."""
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = list(hostile_files.everything(Path(folder), _MARKER, flips=30, step=4096))
        for number, path in enumerate(paths):
            if path.is_file() and path.stat().st_size <= _LONGEST:
                (corpus / f"begin-{number}").write_bytes(path.read_bytes())
            elif (path / ".metadata").is_file():
                (corpus / f"begin-{number}").write_bytes(b"D" + (path / ".metadata").read_bytes())
            elif (path / "model.safetensors.index.json").is_file():
                index = (path / "model.safetensors.index.json").read_bytes()
                (corpus / f"begin-{number}").write_bytes(b"H" + index[:_LONGEST])


_shard = hostile_files.sound()["safetensors"]
_part = hostile_files.shapes()["beyond"]

if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    _begin(Path(arguments[0] if arguments else "corpus"))
    os.chdir(_PLACE.parent if not arguments else Path(arguments[0]).parent)
    atheris.Setup([*sys.argv, f"-max_len={_LONGEST}", "-timeout=10", "-rss_limit_mb=600"],
                  one_input)  # fmt: skip
    atheris.Fuzz()
