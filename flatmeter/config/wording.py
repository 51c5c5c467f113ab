"""What is wrong with a value, in the words of this program instead of pydantic's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

#: What a value must be, by pydantic's name of the mistake without its ending.
_WANTED = {
    "literal_error": "{expected}",
    "enum": "{expected}",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "dict": "`name: value` pairs",
    "tuple": "a list",
    "list": "a list",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
#: Endings of pydantic's names that make no difference to people.
_MANNER = re.compile(r"_(?:parsing|parsing_size|type|from_float)$")


class Mistake(NamedTuple):
    """Why some values were refused.

    Args:
        field: that is wrong; empty where it is several together.
        text: what is wrong with it, a sentence.
        hint: the nearest value that is right, where there is one.
    """

    field: str
    text: str
    hint: str | None


def mistake(error: ValidationError, values: Mapping[str, Any], owner: str = "") -> Mistake:
    """The first mistake that pydantic found.

    Args:
        error: of one field or several.
        values: that were given, by field.
        owner: name of what the fields belong to, told in front of them.
    """
    details = error.errors()
    if not details[0]["loc"]:
        return Mistake("", ": ".join(filter(None, [owner, _said(details[0])])), None)
    field = str(details[0]["loc"][0])
    name = f"{owner}.{field}" if owner else field
    if details[0]["type"] == "missing":
        return Mistake(field, f"{name} must be given", None)
    own = [detail for detail in details if detail["loc"][0] == field]
    text = f"{name} cannot be {_shown(values[field])}: {_reason(own)}"
    return Mistake(field, text, nearest(values[field], _words(own)))


def one_of(words: Sequence[str]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [repr(word) for word in words]
    return " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def nearest(value: Any, words: Iterable[str]) -> str | None:
    """The question after the word that a value comes nearest to."""
    close = difflib.get_close_matches(str(value).lower(), list(words), n=1)
    return f"did you mean {close[0]}?" if close else None


def _reason(own: Sequence[ErrorDetails]) -> str:
    """All that one field may be: of a union, each member refused it for a reason of its own."""
    # A list whose members are wrong is refused as too short besides.
    members = [detail for detail in own if isinstance(detail["loc"][-1], int)]
    own = members or own
    wanted = [_wanted(detail) for detail in own]
    if None in wanted:
        return _said(own[wanted.index(None)])
    must = "each in it must be" if members else "it must be"
    return f"{must} {' or '.join(dict.fromkeys(filter(None, wanted)))}"


def _wanted(detail: ErrorDetails) -> str | None:
    form = _WANTED.get(_MANNER.sub("", detail["type"]))
    if form is None:
        return None
    context = detail.get("ctx", {})
    return form.format(**{k: _shown(v) if k != "expected" else v for k, v in context.items()})


def _said(detail: ErrorDetails) -> str:
    """A validator's own sentence, or pydantic's for what cannot be foreseen."""
    text = re.sub(r"^(?:Value error|Assertion failed), ", "", detail["msg"])
    return re.sub(r"^\w+ should ", "it must ", text)


def _words(own: Sequence[ErrorDetails]) -> list[str]:
    """The words that the field takes, out of pydantic's ``'a', 'b' or 'c'``."""
    return [
        word
        for detail in own
        for word in re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    ]


def _shown(value: Any) -> str:
    """As a person would write it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else repr(value)
