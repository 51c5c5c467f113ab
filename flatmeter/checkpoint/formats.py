"""The formats that are told apart, and for those that are not read, how to convert them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Format(str, Enum):
    """What a file or folder is, by its bytes; the value is its name for people."""

    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch legacy"
    SAFETENSORS = "safetensors"
    DAMAGED_ZIP = "damaged zip"
    TORCH_TAR = "torch tar"
    TORCHSCRIPT = "TorchScript"
    TORCH_EXPORT = "torch.export"
    PICKLE = "bare pickle"
    NUMPY = "NumPy"
    HDF5 = "HDF5"
    KERAS = "Keras"
    GGUF = "GGUF"
    ONNX = "ONNX"
    HUGGING_FACE = "Hugging Face folder"
    DISTRIBUTED = "distributed checkpoint"
    DEEPSPEED = "DeepSpeed checkpoint"
    ADAPTER = "PEFT adapter"


#: Formats of which a folder's files count as its checkpoints, readable or not.
LISTED = frozenset(
    {
        Format.TORCH_ZIP,
        Format.TORCH_LEGACY,
        Format.SAFETENSORS,
        Format.DAMAGED_ZIP,
        Format.TORCH_TAR,
        Format.TORCHSCRIPT,
        Format.TORCH_EXPORT,
    }
)

#: What writes the formats that are read.
WRITERS: Mapping[Format, str] = MappingProxyType(
    {
        Format.TORCH_ZIP: "what torch.save writes",
        Format.TORCH_LEGACY: "what torch.save wrote before PyTorch 1.6",
        Format.SAFETENSORS: "what safetensors.torch.save_file writes",
        Format.TORCH_EXPORT: "the weights in what torch.export.save writes",
        Format.HUGGING_FACE: "what save_pretrained writes",
        Format.DISTRIBUTED: "the tensors in what torch.distributed.checkpoint.save writes",
    }
)

_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
_REBUILD = f"build the network in PyTorch, fill in its weights and {_SAVE}"

#: How to make a readable file of one that is not read; FILE is its name, FOLDER its path.
CONVERSIONS: Mapping[Format, str] = MappingProxyType(
    {
        Format.DAMAGED_ZIP: "fetch it again, or take the checkpoint before it",
        Format.TORCH_TAR: f"load it with a PyTorch of its time and {_SAVE}",
        Format.TORCHSCRIPT: "it holds a program; where you trust it, re-save the weights alone:\n"
        f"  model = torch.jit.load('FILE')\n  {_SAVE}",
        Format.PICKLE: f"reading a pickle runs code; where you trust it, load it and {_SAVE}",
        Format.NUMPY: "data belong after --data; weights named as in the network are converted by\n"
        "  torch.save({k: torch.from_numpy(v) for k, v in numpy.load('FILE').items()}, "
        "'weights.pt')",
        Format.HDF5: _REBUILD,
        Format.KERAS: _REBUILD,
        Format.GGUF: "its weights are quantised: measure the checkpoint that it was made from",
        Format.ONNX: "it holds a program: measure the checkpoint that it was exported from",
        Format.DEEPSPEED: "gather its parts into one file: python zero_to_fp32.py FOLDER OUTPUT",
        Format.ADAPTER: "it holds changes to other weights: merge_and_unload(), then save those",
    }
)
