"""Whether data and loss suit the network of a Hugging Face folder, which nothing else tells."""

from __future__ import annotations

from torch import Tensor, nn

from flatmeter.data.dataset import Dataset
from flatmeter.errors import DataError, UsageError
from flatmeter.model.hugging_face import takes_parts
from flatmeter.model.hugging_face_config import FolderConfig, Head
from flatmeter.risk.causal_lm import CausalLM
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.losses import Loss


def check_parts(model: nn.Module, data: Dataset) -> None:
    """Refuse tokens stacked with a mask for a network that would take them for something else.

    Raises:
        DataError: it takes one tensor of tokens, or the stack does not say of what it is.
    """
    if data.parts and not takes_parts(model):
        raise DataError(
            f"the network takes one tensor of inputs, and these are {', '.join(data.parts)}",
            where=data.name,
            hint="networks of Hugging Face folders (--model hf:FOLDER) take them all",
        )
    stacked = data.inputs.dim() == 3 and not data.inputs.is_floating_point()
    if stacked and takes_parts(model) and not data.parts:
        raise DataError(
            f"inputs are integers {list(data.inputs.shape)}, but the network takes tokens [n, T]",
            where=data.name,
            hint="give input_ids, attention_mask and token_type_ids as entries of their own",
        )


def check_suitable(config: FolderConfig, data: Dataset, loss: Loss) -> tuple[str, ...]:
    """Refuse what such a network has no answer to, or one to another question.

    Args:
        config: of the network.
        data: that it is to be measured on.
        loss: that it is to be measured with.

    Returns:
        Notes on padding that nothing masks.

    Raises:
        DataError: tokens that it does not know, or more of them than it takes.
        UsageError: a loss that would be taken over other positions or classes than it gives.
    """
    _check_loss(config, loss)
    if not config.head.reads_text or data.inputs.is_floating_point():
        return ()
    tokens = data.inputs[:, 0] if data.parts else data.inputs
    _check_tokens(config, tokens, data)
    return () if data.parts else _padded(config, tokens)


def _check_loss(config: FolderConfig, loss: Loss) -> None:
    next_token = config.head is Head.NEXT_TOKEN
    if next_token and isinstance(loss, CrossEntropy):
        raise UsageError(
            f"{config.architecture} {config.head.value}, and cross_entropy takes one class for "
            "each sample",
            where="--loss",
            hint="its loss is --loss causal_lm",
        )
    if not next_token and isinstance(loss, CausalLM):
        raise UsageError(
            f"{config.architecture} {config.head.value}: it predicts no next token",
            where="--loss",
            hint="give labels with the inputs (FILE.pt with input_ids and labels), and "
            "--loss cross_entropy",
        )


def _check_tokens(config: FolderConfig, tokens: Tensor, data: Dataset) -> None:
    low, high, known = int(tokens.min()), int(tokens.max()), config.vocabulary
    if known is not None and not (low >= 0 and high < known):
        raise DataError(
            f"tokens run from {low:,} to {high:,}, but the network knows {known:,} (0 to "
            f"{known - 1:,})",
            where=data.name,
            hint="cut the text with the tokenizer that the network was trained with",
        )
    if config.positions is not None and tokens.shape[-1] > config.positions:
        raise DataError(
            f"sequences of {tokens.shape[-1]:,} tokens are longer than the {config.positions:,} "
            "that the network takes",
            where=data.name,
        )
    if len(data.parts) == 3 and config.values.get("type_vocab_size") is None:
        raise DataError(
            f"{config.architecture} knows no {data.parts[2]}",
            where=data.name,
            hint="leave them out of the file",
        )


def _padded(config: FolderConfig, tokens: Tensor) -> tuple[str, ...]:
    """A note where sequences that are seen whole begin or end with padding, which is seen too."""
    pad = config.values.get("pad_token_id")
    # Elsewhere no token sees those after it, and the last one that is no padding is asked.
    if pad is None or not config.architecture.startswith("Bert"):
        return ()
    count = int((tokens[:, [0, -1]] == pad).any(1).sum())
    if not count:
        return ()
    return (
        f"{count:,} of {len(tokens):,} sequences begin or end with the padding token ({pad}) and "
        "there is no attention_mask: the network sees the padding as it sees any token",
    )
