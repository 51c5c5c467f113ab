"""Groups of Hugging Face's language and vision models, tiny and random, counted by hand."""

from __future__ import annotations

import pytest
import torch

from flatmeter.import_torchvision import import_torchvision
from flatmeter.symmetry.find import find_group

import_torchvision()  # transformers imports it, and in some installations that needs help
transformers = pytest.importorskip("transformers")

WIDTH, LAYERS = 8, 2


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=WIDTH, n_layer=LAYERS, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama():
    """Four heads of queries share two of keys and values, of one rotated plane each."""
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def vit():
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=12,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


CASES = {
    # The first norm against the packed projection, the second against what expands; the stream,
    # whose table is the head, which the last norm takes back. Channels: also queries and values.
    "gpt2": (gpt2, LAYERS * 2 + 1, LAYERS * 4 * WIDTH + 1),
    # First norm, queries and keys, values, second norm, the ungated branch; the stream, the head.
    # Channels: of queries and keys one for each plane of two heads, of values four.
    "llama": (llama, LAYERS * 5 + 2, LAYERS * (WIDTH + 2 + 4 + WIDTH + 12) + 1 + WIDTH),
    # Queries and keys, the keys' bias, values, and what enters either norm; what enters the first
    # of all, and the pooler. Norms make the channels of the stream one.
    "bert": (bert, LAYERS * 5 + 2, LAYERS * (3 * WIDTH + 2) + 1 + WIDTH),
    # First norm, queries and keys, the keys' bias, values, second norm; the stream, the head.
    "vit": (vit, LAYERS * 5 + 2, LAYERS * 5 * WIDTH + 1 + WIDTH),
}


@pytest.mark.parametrize("name", CASES)
def test_group(name):
    torch.manual_seed(0)
    make, dim, channels = CASES[name]
    net = make().eval()
    x = torch.randn(2, 3, 8, 8) if name == "vit" else torch.randint(11, (2, 5))
    group = find_group(net, x, [n for n, _ in net.named_parameters()])
    assert group.notes == ()
    assert group.unknown_operators == {}
    assert group.dim == dim
    assert group.channels.count - 1 == channels
    assert group.exact_error < 1e-12
