"""Prefixes that wrappers put before the names of weights: found, removed, never to a collision."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

#: Parts of a name that a wrapper adds: DataParallel and DDP, torch.compile, FSDP, checkpointing.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def without_wrappers(names: Iterable[str]) -> dict[str, str] | None:
    """The names without the parts that wrappers add, at any depth.

    Returns:
        New name by old name; ``None`` if two names would become one or a name would vanish.
    """
    renamed = {n: ".".join(p for p in n.split(".") if p not in WRAPPERS) for n in names}
    return _valid(renamed)


def without_leading_wrappers(names: Iterable[str]) -> dict[str, str] | None:
    """As :func:`without_wrappers`, but only at the beginning of each name."""
    renamed = {}
    for name in names:
        parts = name.split(".")
        while parts and parts[0] in WRAPPERS:
            parts.pop(0)
        renamed[name] = ".".join(parts)
    return _valid(renamed)


def without_common(names: Collection[str]) -> dict[str, str] | None:
    """The names without the first part (``model.``, ``net.``, ``backbone.``) that all share.

    Returns:
        New name by old name; ``None`` where there is no such part.
    """
    first = {name.partition(".")[0] for name in names}
    if len(first) != 1 or not all("." in name for name in names):
        return None
    return {name: name.partition(".")[2] for name in names}


def match_names(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Rename a checkpoint's weights to those of a network.

    Names that fit as they are stay; else wrappers are removed, at the beginning and then anywhere;
    else one common first part, only where that makes the names those of the network.

    Args:
        names: in the checkpoint.
        wanted: in the network.

    Returns:
        New name by old name: of the first exact match, else of the mildest renaming that has the
        most names in common, for the message about what differs.
    """
    goal = set(wanted)
    candidates = list(_candidates(names))
    for renamed in candidates:
        if set(renamed.values()) == goal:
            return renamed
    return max(candidates, key=lambda renamed: len(goal & set(renamed.values())))


def _candidates(names: Collection[str]) -> Iterable[dict[str, str]]:
    plain = {name: name for name in names}
    stripped = [r for r in (without_leading_wrappers(names), without_wrappers(names)) if r]
    yield plain
    yield from stripped
    for renamed in (plain, *stripped):
        shorter = without_common(list(renamed.values()))
        if shorter is not None:
            yield {old: shorter[new] for old, new in renamed.items()}


def strip_wrappers(tensors: Mapping[str, object]) -> dict[str, str]:
    """Names for saving: without wrappers where that is possible, else as they are."""
    return without_leading_wrappers(tensors) or {name: name for name in tensors}


def _valid(renamed: dict[str, str]) -> dict[str, str] | None:
    new = renamed.values()
    return renamed if len(set(new)) == len(renamed) and all(new) else None
