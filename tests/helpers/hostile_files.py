"""Files made to mislead whoever reads them: a corpus, written by hand and from a fixed seed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

#: The extension code under which whoever reads the corpus has registered ``os.system``.
EXTENSION = 0xF1


def payloads(marker: Path) -> dict[str, bytes]:
    """Pickles that create a file when they are unpickled the usual way, by the way they go."""
    command = f"touch {marker}"
    text = b"V" + command.encode() + b"\n"
    system, one = b"cos\nsystem\n", b"(" + text + b"t"
    inner = pickle.dumps(_Call(os.system, command), 2)
    evaluated = f"__import__('os').system({command!r})"
    empty_bag = b"cargparse\nNamespace\n)\x81"
    return {
        "reduce": system + one + b"R.",
        "reduce-2": b"\x80\x02" + system + b"X" + struct.pack("<I", len(command))
        + command.encode() + b"\x85R.",
        "posix": b"cposix\nsystem\n" + one + b"R.",
        "inst": b"(" + text + b"ios\nsystem\n.",
        "obj": b"(" + system + text + b"o.",
        "newobj": b"\x80\x02" + system + one + b"\x81.",
        "newobj-class": b"\x80\x02csubprocess\nPopen\n" + one + b"\x81" + b"}b.",
        "newobj-ex": b"\x80\x04" + system + one + b"}\x92.",
        "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + one + b"R.",
        "stack-global-memo": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93" + one
        + b"R.",
        "ext1": b"\x80\x02\x82" + bytes([EXTENSION]) + one + b"R.",
        "ext4": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + one + b"R.",
        "build-setstate": b"\x80\x02" + empty_bag + b"}V__setstate__\n" + system + b"sb" + text
        + b"b.",
        "build-reduce": b"\x80\x02" + empty_bag + b"}V__reduce__\n" + system + b"sb.",
        "build-class": b"\x80\x02" + empty_bag + b"N}V__class__\ncsubprocess\nPopen\ns\x86b.",
        "build-slots": b"\x80\x02" + empty_bag + b"N}V__setstate__\n" + system + b"s\x86b" + text
        + b"b.",
        "ordered-dict-items": b"\x80\x02ccollections\nOrderedDict\n)R}Vitems\n" + system + b"sb.",
        "factory": b"\x80\x02ccollections\ndefaultdict\n" + system + b"\x85R.",
        "nested": b"cpickle\nloads\n(" + _bytes(inner) + b"tR.",
        "nested-torch": b"ctorch.storage\n_load_from_bytes\n(" + _bytes(_zipped(inner)) + b"tR.",
        "eval": b"cbuiltins\neval\n(V" + evaluated.encode() + b"\ntR.",
        "eval-2": b"c__builtin__\neval\n(V" + evaluated.encode() + b"\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR" + one + b"R.",
        "dotted": b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93" + one + b"R.",
        "by-way-of": b"ctorch.serialization\nos.system\n" + one + b"R.",
        "argparse": b"cargparse\n_os.system\n" + one + b"R.",
        "rebuild": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(" + system + system + one
        + b"}tR.",
        "partial": b"cfunctools\npartial\n(" + system + text + b"tR)R.",
        "in-a-dict": b"\x80\x02}(Va\nK\x01Vstate_dict\n" + system + one + b"Ru.",
        "in-a-key": b"\x80\x02}" + system + one + b"RK\x01s.",
        "persistent": b"\x80\x02(Vmodule\n" + system + text + text + b"tQ.",
        "persistent-storage": b"\x80\x02(Vstorage\n" + system + b"V0\nVcpu\nK\x01tQ.",
        "runpy": b"crunpy\n_run_code\n(V" + evaluated.encode() + b"\n}tR.",
        "control-characters": b"\x80\x04\x8c\x02os\x8c\x11system\n\x1b[2J\x1b]0;a\x07"
        + b"\x93" + one + b"R.",
        "long-name": b"\x80\x04\x8c\x02osX\x88\x13\x00\x00" + b"n" * 5_000 + b"\x93" + one + b"R.",
        "two-pickles": pickle.dumps({}, 2) + system + one + b"R.",
    }  # fmt: skip


def _bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


class _Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _zipped(data: bytes, **members: bytes) -> bytes:
    """A zip as torch.save writes it, around any pickle."""
    every = {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **members}
    return archive({f"c/{name}": content for name, content in every.items()})


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def _legacy(which: int, pickled: bytes) -> bytes:
    """A file in torch's old format with one of its five pickles exchanged."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, facts, {}, []]
    written = [pickle.dumps(part, 2) for part in parts]
    written[which] = pickled
    return b"".join(written)


def _numpy(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(1))
    head = stream.getvalue()[:-8].replace(b"'<f8'", b"'|O' ")
    return head + pickled


#: Where a pickle can stand. Names ending in a slash are folders of files.
CONTAINERS: dict[str, Callable[[bytes], bytes | dict[str, bytes]]] = {
    "bare": lambda p: p,
    "zip": _zipped,
    "zip-in-zip": lambda p: archive({"a/data.pkl": _zipped(p), "a/version": b"3"}),
    "legacy-object": lambda p: _legacy(3, p),
    "legacy-facts": lambda p: _legacy(2, p),
    "legacy-keys": lambda p: _legacy(4, p),
    "torchscript": lambda p: _zipped(p, **{"constants.pkl": p, "code/a.py": b"import os"}),
    "pt2": lambda p: archive(
        {
            "m/archive_format": b"pt2",
            "m/archive_version": b"0",
            "m/byteorder": b"little",
            "m/models/model.json": b"{}",
            "m/data/weights/weight_0": p,
            "m/data/weights/model_weights_config.json": json.dumps(
                {"config": {"w": {"path_name": "weight_0", "is_param": True, "use_pickle": True,
                                  "tensor_meta": None}}}
            ).encode(),
            "m/data/constants/tensor_0": _zipped(p),
            "m/data/constants/custom_obj_0": p,
            "m/data/sample_inputs/model.pt": _zipped(p),
        }
    ),
    "numpy": _numpy,
    "npz": lambda p: archive({"w.npy": _numpy(p)}),
    "distributed/": lambda p: {".metadata": p, "__0_0.distcp": _zipped(p)},
    "hugging-face/": lambda p: {
        "config.json": b'{"model_type": "gpt2"}',
        "pytorch_model.bin": _zipped(p),
    },
    "shards/": lambda p: {
        "config.json": b'{"model_type": "gpt2"}',
        "pytorch_model.bin.index.json": b'{"weight_map": {"w": "pytorch_model-1.bin"}}',
        "pytorch_model-1.bin": _zipped(p),
    },
}  # fmt: skip


def code(folder: Path, marker: Path) -> Iterator[Path]:
    """Every payload in every container."""
    for way, pickled in payloads(marker).items():
        for place, contain in CONTAINERS.items():
            yield _write(folder / f"{way}-{place.rstrip('/')}", contain(pickled))


def _write(path: Path, content: bytes | dict[str, bytes]) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    path.mkdir()
    for name, inside in content.items():
        (path / name).write_bytes(inside)
    return path


def sound() -> dict[str, bytes]:
    """Small files that are read, to be cut and bent."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40), nn.Linear(40, 2))
    state = dict(net.state_dict())
    value = {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    return {
        "zip": _saved(value),
        "legacy": _saved(value, _use_new_zipfile_serialization=False),
        "safetensors": save_safetensors(state, {"format": "pt"}),
    }


def _saved(value, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def bent(folder: Path, flips: int, step: int) -> Iterator[Path]:
    """Sound files with bits turned over, one to three each, and cut short at every ``step``."""
    rng = random.Random(0)
    for kind, content in sound().items():
        for cut in range(0, len(content), step):
            yield _write(folder / f"cut-{cut}-{kind}", content[:cut])
        for number in range(flips // 3):
            changed = bytearray(content)
            # Half of them where the structure is: at both ends.
            ends = rng.random() < 0.5
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(len(changed))
                place = rng.choice((place % 400, len(changed) - 1 - place % 900)) if ends else place
                changed[place] ^= 1 << rng.randrange(8)
            yield _write(folder / f"flip-{number}-{kind}", bytes(changed))


def pickles_that_unfold() -> dict[str, bytes]:
    """Pickles of admitted names that ask for far more time or memory than they have bytes."""
    twice = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
                     for i in range(60))  # fmt: skip
    many = b"(" + b"".join(b"M" + struct.pack("<H", i % 65536) for i in range(20_000))
    again = b"".join(b"h\x01h\x02\x85R" for _ in range(20_000))
    size = struct.pack("<I", 2**31 - 1)
    called = b"\x80\x02cbuiltins\nbytearray\n"
    words = b"X" + struct.pack("<I", 200_000) + b"a" * 200_000 + b"q\x02"
    return {
        "bytearray": called + b"J\xff\xff\xff\x7f\x85R.",
        "bytearray-long": called + b"\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        "tensor": b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
        "storage": b"\x80\x02ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85\x81.",
        "hash": b"\x80\x02}K\x01\x85q\x00" + twice + b"K\x01s.",
        "hash-in-a-set": b"\x80\x02cbuiltins\nset\nK\x01\x85q\x00" + twice + b"\x85R.",
        "copies": b"\x80\x02cbuiltins\nset\nq\x01(]" + many + b"e\x71\x02" + again + b"l.",
        "copies-2": b"\x80\x02cbuiltins\nset\nq\x01]" + many + b"eq\x02(" + again + b"t.",
        "encoded": b"\x80\x02c_codecs\nencode\nq\x01" + words
        + b"(" + b"h\x01h\x02X\x06\x00\x00\x00utf-32\x86R" * 3_000 + b"t.",
        "punycode": b"\x80\x02c_codecs\nencode\nq\x01X\x40\x0d\x03\x00"
        + "äö".encode() * 50_000 + b"X\x08\x00\x00\x00punycode\x86R.",
        "long-text": b"\x80\x02X" + size + b"abc.",
        "containers": b"\x80\x02(" + b"}" * 600_000 + b"t.",
        "marks": b"\x80\x02" + b"(" * 600_000 + b".",
        "memo": b"\x80\x02Nr" + size + b".",
        "memo-that-fits": b"\x80\x02Nr" + struct.pack("<I", 60_000_000) + b".",
        "itself": b"\x80\x02]q\x00h\x00a.",
        "itself-by-name": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    }  # fmt: skip


def _tensor(
    shape: bytes, stride: bytes, numel: bytes = b"K\x04", offset: bytes = b"K\x00"
) -> bytes:
    """A pickle of one tensor whose numbers are four floats in ``data/0``."""
    return (
        b"\x80\x02}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00"
        b"storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numel + b"tQ"
        + offset + shape + stride + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def shapes() -> dict[str, bytes]:
    """Tensors that claim to be what they are not."""
    huge, one, four = b"\x8a\x08" + struct.pack("<q", 2**60), b"K\x01\x85", b"K\x04\x85"
    nan = b"G" + struct.pack(">d", float("nan"))
    made = {
        "huge": _tensor(huge + b"\x85", one),
        "huge-stride": _tensor(four, huge + b"\x85"),
        "no-stride": _tensor(huge + b"\x85", b"K\x00\x85"),
        "beyond": _tensor(b"K\x05\x85", one),
        "offset": _tensor(four, one, offset=b"K\x02"),
        "before": _tensor(four, one, offset=b"J\xff\xff\xff\xff"),
        "negative": _tensor(b"J\xff\xff\xff\xff\x85", one),
        "negative-stride": _tensor(four, b"J\xff\xff\xff\xff\x85"),
        "nan": _tensor(nan + b"\x85", one),
        "nan-size": _tensor(four, one, numel=nan),
        "size": _tensor(four, one, numel=b"K\x05"),
        "huge-size": _tensor(four, one, numel=huge),
        "dims": _tensor(b"(" + b"K\x01" * 100_000 + b"t", b"(" + b"K\x01" * 100_000 + b"t"),
        "overflow": _tensor(huge + huge + b"\x86", b"K\x01K\x01\x86"),
    }
    return {name: _zipped(data, **{"data/0": bytes(16)}) for name, data in made.items()}


def poisoned() -> dict[str, bytes]:
    """Containers and tensors that are given methods of their own by their state."""
    tensor = _tensor(b"K\x04\x85", b"K\x01\x85")[2:-1]
    bag = b"cargparse\nNamespace\n)\x81"
    made = {}
    for name in (b"items", b"keys", b"values", b"get", b"__contains__", b"__class__", b"__dict__"):
        made[f"mapping-{name.decode()}"] = (
            b"ccollections\nOrderedDict\n)R" + tensor[1:].replace(b"RtRs", b"RtRs", 1)
            + b"}V" + name + b"\nK\x05sb."
        )  # fmt: skip
    for name in (b"__setstate__", b"__class__", b"__dict__", b"__getattribute__", b"keys"):
        for value in (b"K\x05", b"ccollections\nOrderedDict\n", b"ctorch.storage\nTypedStorage\n"):
            key = f"bag-{name.decode()}-{value[-8:-1].decode(errors='replace')}"
            made[key] = bag + b"N}V" + name + b"\n" + value + b"s\x86b}b."
            made[key + "-in"] = tensor + b"Vargs\n" + bag + b"}V" + name + b"\n" + value + b"sbs."
    made["bag-names"] = tensor + b"Vargs\n" + bag + b"}K\x05K\x05sbs."
    made["bag-itself"] = tensor + b"Vargs\n" + bag + b"q\x00}Va\nh\x00sbs."
    for name in (b"numel", b"dtype", b"detach", b"dim", b"is_floating_point", b"layout", b"grad"):
        rebuilt = tensor.replace(b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
            b"ctorch\nTensor\n(").replace(b"RtRs", b"Rt}V" + name + b"\nK\x05stRs")  # fmt: skip
        made[f"tensor-{name.decode()}"] = rebuilt + b"."
    return {
        name: _zipped(b"\x80\x02" + _binary(data), **{"data/0": bytes(16)})
        for name, data in made.items()
    }


def _binary(data: bytes) -> bytes:
    """With texts as torch's unpickler admits them."""
    parts = data.split(b"V")
    out = parts[0]
    for part in parts[1:]:
        text, _, rest = part.partition(b"\n")
        out += b"X" + struct.pack("<I", len(text)) + text + rest
    return out


def zips(marker: Path) -> dict[str, bytes]:
    """Zips that unpack to more than they are, or elsewhere, or to two different things."""
    good = _tensor(b"K\x04\x85", b"K\x01\x85")
    bad = payloads(marker)["reduce-2"]
    sound_zip = _zipped(good, **{"data/0": bytes(16)})
    bomb = archive({"c/data.pkl": good, "c/version": b"3", "c/data/0": bytes(20 << 20)},
                   zipfile.ZIP_DEFLATED)  # fmt: skip
    return {
        "bomb": bomb,
        "bomb-in-pickle": archive(
            {"c/data.pkl": b"\x80\x02(" + b"N" * (20 << 20) + b"t.", "c/version": b"3"},
            zipfile.ZIP_DEFLATED,
        ),
        "bomb-of-pt2": archive(
            {"c/archive_format": b"pt2", "c/models/model.json": b"{" + b" " * (20 << 20) + b"}",
             "c/data/weights/model_weights_config.json": b" " * (20 << 20)}, zipfile.ZIP_DEFLATED),
        "bomb-bz2": archive({"c/data.pkl": good, "c/version": b"3", "c/data/0": bytes(20 << 20)},
                            zipfile.ZIP_BZIP2),
        "lzma": archive({"c/data.pkl": good, "c/version": b"3", "c/data/0": bytes(16)},
                        zipfile.ZIP_LZMA),
        "up": _zipped(good, **{"data/0": bytes(16), "../../escaped": b"x"}),
        "absolute": archive({"/c/data.pkl": bad, "/c/version": b"3", "/c/data/0": bytes(16)}),
        "up-in-storage": _zipped(good.replace(b"\x01\x00\x00\x000X", b"\x08\x00\x00\x00../../..X"),
                                 **{"data/../../..": bytes(16)}),
        "two-data": archive({"c/x/data.pkl": good, "c/data.pkl": bad, "c/version": b"3",
                             "c/data/0": bytes(16)}),
        "other-folder": archive({"a/version": b"3", "c/data.pkl": good, "a/data.pkl": bad}),
        "two-directories": sound_zip + _zipped(bad),
        "before": _zipped(bad) + sound_zip,
        "shifted": b"PK\x03\x04" + bytes(200) + sound_zip,
        "comment": sound_zip[:-2] + struct.pack("<H", 30_000) + bytes(30_000),
        "no-members": b"PK\x03\x04" + archive({}),
        "long-name": _zipped(good, **{"data/0": bytes(16), "n" * 65_000: b""}),
        "encrypted": _flagged(sound_zip, 1),
        "many": archive({f"c/{i}": b"" for i in range(20_000)}),
    }  # fmt: skip


def _flagged(content: bytes, flag: int) -> bytes:
    """With a flag set on every member of the directory."""
    out = bytearray(content)
    place = out.find(b"PK\x01\x02")
    while place >= 0:
        out[place + 8] |= flag
        place = out.find(b"PK\x01\x02", place + 4)
    return bytes(out)


def _headed(header: bytes | dict, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_headers() -> dict[str, bytes]:
    """Headers of safetensors that are too long, too deep, or say two things."""

    def entry(**changed):
        return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changed}}

    text = json.dumps(entry()).encode()
    return {
        "longest": struct.pack("<Q", 2**64 - 1) + text,
        "overlong": struct.pack("<Q", 99_999_999) + text,
        "padded": _headed(text + b" " * (4 << 20)),
        "names": _headed({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                          for i in range(30_000)}, b""),
        "duplicate": _headed(text[:-1] + b"," + text[1:]),
        "duplicate-inside": _headed(text.replace(b'"shape": [4]', b'"shape": [4], "shape": [1]')),
        "deep": _headed(b'{"w":' * 100_000),
        "deep-list": _headed(b'{"w":' + b"[" * 100_000),
        "nan": _headed(text.replace(b"[4]", b"[NaN]")),
        "infinite": _headed(text.replace(b"[4]", b"[1e999]")),
        "huge": _headed(entry(shape=[2**62, 4])),
        "overflow": _headed(entry(shape=[2**33, 2**33])),
        "digits": _headed(text.replace(b"[4]", b"[" + b"9" * 100_000 + b"]")),
        "overlap": _headed({**entry(), "v": entry()["w"]}),
        "hole": _headed(entry(data_offsets=[8, 24]), bytes(24)),
        "rest": _headed(entry(), bytes(100)),
        "dims": _headed(entry(shape=[1] * 100_000 + [4])),
        "long-name": _headed({"module." * 100_000 + "w": entry()["w"]}),
        "surrogate": _headed(text.replace(b'"w"', b'"\\ud800"')),
        "metadata": _headed({"__metadata__": {"format": 5}, **entry()}),
    }  # fmt: skip


def folders(folder: Path) -> Iterator[Path]:
    """Folders, pipes and links in the place of files, and indices that point elsewhere."""
    outside = folder / "outside.safetensors"
    outside.write_bytes(save_safetensors({"w": torch.ones(2)}))
    for number, name in enumerate(
        ["../outside.safetensors", str(outside), "a/../../outside.safetensors", "link.safetensors",
         "missing.safetensors", "loop", "pipe", "", ".", "..", "x" * 5_000, "\0", 5, None, ["a"]]
    ):  # fmt: skip
        place = folder / f"index-{number}"
        place.mkdir()
        (place / "config.json").write_text('{"model_type": "gpt2"}')
        (place / "link.safetensors").symlink_to(outside)
        (place / "loop").symlink_to("loop")
        os.mkfifo(place / "pipe")
        index = {"weight_map": {"w": name}}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        yield place
    for number, text in enumerate(
        [b"", b"[", b"[]", b"{}", b'{"weight_map": 5}', b'{"weight_map": {}}', b"[" * 100_000,
         b'{"weight_map": {"w": "a", "w": "b"}}', b"\xff\xfe", b" " * (5 << 20)]
    ):  # fmt: skip
        place = folder / f"text-{number}"
        place.mkdir()
        (place / "config.json").write_text('{"model_type": "gpt2"}')
        (place / "model.safetensors.index.json").write_bytes(text)
        yield place
    (folder / "loop.pt").symlink_to("loop.pt")
    yield folder / "loop.pt"
    os.mkfifo(folder / "pipe.pt")
    yield folder / "pipe.pt"
    (folder / "folder.pt").mkdir()
    yield folder / "folder.pt"
    round_trip = folder / "around"
    round_trip.mkdir()
    (round_trip / "again").symlink_to(round_trip)
    yield round_trip


def everything(folder: Path, marker: Path, *, flips: int, step: int) -> Iterator[Path]:
    """The corpus, written below a folder.

    Args:
        folder: that exists.
        marker: the file that code in the corpus would create.
        flips: number of files with bits turned over.
        step: bytes between two places that a file is cut short at.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from code(_new(folder / "code"), marker)
        yield from bent(_new(folder / "bent"), flips, step)
        yield from folders(_new(folder / "folders"))
        made = {
            "unfold": {k: _zipped(v) for k, v in pickles_that_unfold().items()},
            "unfold-legacy": {k: _legacy(3, v) for k, v in pickles_that_unfold().items()},
            "unfold-table": {
                k: {".metadata": v, "__0_0.distcp": _zipped(v)}
                for k, v in pickles_that_unfold().items()
            },
            "shapes": shapes(),
            "poisoned": poisoned(),
            "zips": zips(marker),
            "headers": safetensors_headers(),
        }
        for kind, files in made.items():
            place = _new(folder / kind)
            for name, content in files.items():
                yield _write(place / name, content)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
