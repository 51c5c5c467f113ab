"""Networks of transformers, tiny and random, and tokenizers made on the spot."""

from __future__ import annotations

import pytest
import torch

from flatmeter.import_torchvision import import_torchvision

import_torchvision()  # transformers imports it, and in some installations that needs help
transformers = pytest.importorskip("transformers")

GPT2, LLAMA, BERT, VIT = (
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "BertForSequenceClassification",
    "ViTForImageClassification",
)
TOKENS = 60
POSITIONS = 16
CLASSES = 3
SENTENCE = "the quick brown fox jumps over the lazy dog while seven old owls watch from the barn. "

_GPT2 = {"n_positions": POSITIONS, "n_embd": 16, "n_layer": 2, "n_head": 2}
_LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": POSITIONS,
}  # fmt: skip
_BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip
_VIT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
_OF = {"GPT2": _GPT2, "Llama": _LLAMA, "Bert": _BERT, "ViT": _VIT}


def make(architecture: str, *, seed: int = 0, **changes):
    """A network with random weights, all of them, in evaluation mode and float32."""
    family = next(name for name in _OF if architecture.startswith(name))
    settings = {**_OF[family], "num_labels": CLASSES}
    if family != "ViT":
        settings |= {"vocab_size": TOKENS, "pad_token_id": 1}
    if family in ("GPT2", "Llama"):
        settings |= {"bos_token_id": 0, "eos_token_id": 0}
    kind = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**{**settings, **changes})).eval()
    with torch.no_grad():
        # Biases begin as zeros and norms as ones, which would hide that they are mixed up.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs_of(architecture: str, n: int = 4, length: int = 7) -> torch.Tensor:
    """Inputs that such a network takes."""
    source = torch.Generator().manual_seed(1)
    if architecture.startswith("ViT"):
        return torch.randn(n, 3, 8, 8, generator=source)
    return torch.randint(2, TOKENS, (n, length), generator=source)


def save_tokenizer(folder, text: str = SENTENCE, *, bos: bool = False):
    """A byte-level BPE of a few merges, as ``save_pretrained`` writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=["<s>", "<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>"
    )
    wrapped.save_pretrained(folder)
    return tokenizer


def save_folder(folder, architecture: str, **changes):
    """A network and, where it reads text, a tokenizer, in a folder; the network."""
    model = make(architecture, **changes)
    model.save_pretrained(folder)
    if not architecture.startswith("ViT"):
        save_tokenizer(folder)
    return model
