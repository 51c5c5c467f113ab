"""Names that the same tensors have in files of other times: older libraries, both weight_norms."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_RULES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "names of an older torchvision brought up to date",
        (
            (r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$", r"\1\2"),
            (r"\.mlp\.linear_1\.(weight|bias)$", r".mlp.0.\1"),
            (r"\.mlp\.linear_2\.(weight|bias)$", r".mlp.3.\1"),
        ),
    ),
    (
        "names of an older transformers brought up to date",
        (
            (r"(^|\.)LayerNorm\.gamma$", r"\1LayerNorm.weight"),
            (r"(^|\.)LayerNorm\.beta$", r"\1LayerNorm.bias"),
            (r"^vit\.encoder\.layer\.(\d+)\.", r"vit.layers.\1."),
            (r"^(vit\..*\.attention)\.attention\.(query|key|value)\.", r"\1.\2."),
            (r"^(vit\..*)\.attention\.query\.", r"\1.attention.q_proj."),
            (r"^(vit\..*)\.attention\.key\.", r"\1.attention.k_proj."),
            (r"^(vit\..*)\.attention\.value\.", r"\1.attention.v_proj."),
            (r"^(vit\..*)\.attention\.output\.dense\.", r"\1.attention.o_proj."),
            (r"^(vit\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
            (r"^(vit\..*\d)\.output\.dense\.", r"\1.mlp.fc2."),
        ),
    ),
    (
        "prefix transformer. added, as GPT-2 has it before its head",
        ((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
    ),
    (
        "weight_norm's names brought up to date",
        (
            (r"(^|\.)([^.]+)_g$", r"\1parametrizations.\2.original0"),
            (r"(^|\.)([^.]+)_v$", r"\1parametrizations.\2.original1"),
        ),
    ),
    (
        "weight_norm's names changed to those of older versions",
        (
            (r"(^|\.)parametrizations\.([^.]+)\.original0$", r"\1\2_g"),
            (r"(^|\.)parametrizations\.([^.]+)\.original1$", r"\1\2_v"),
        ),
    ),
)
#: A text that some name must hold for a rule to change anything, told far sooner than by the rule.
_MARKS = {
    note: marks
    for (note, _), marks in zip(
        _RULES,
        (
            ("denselayer", ".mlp.linear_"),
            ("LayerNorm.gamma", "vit.encoder.layer."),
            ("wte.weight",),
            ("_g", "_v"),
            ("parametrizations.",),
        ),
        strict=True,
    )
}


def other_names(names: Collection[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Every other way in which libraries named the same tensors.

    Args:
        names: in a file.

    Returns:
        The name in the file by the other name, and a note; ways that change nothing, or that make
        two names one, are left out.
    """
    for note, rules in _RULES:
        if not any(mark in name for name in names for mark in _MARKS[note]):
            continue
        renamed: dict[str, str] = {}
        for name in names:
            other = name
            for pattern, replacement in rules:
                other = re.sub(pattern, replacement, other)
            renamed[other] = name
        if len(renamed) == len(names) and set(renamed) != set(names):
            yield renamed, note
