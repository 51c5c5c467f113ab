from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from flatmeter.config.wording import mistake, nearest, one_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Model(BaseModel):
    word: Literal["layer", "neuron"] = "layer"
    colour: Colour = Colour.RED
    count: int = Field(1, ge=1, le=9)
    even: int = Field(2, multiple_of=2)
    share: float = Field(0.5, gt=0, lt=1)
    wide: float = Field(0.5, allow_inf_nan=False)
    flag: bool = False
    text: str = ""
    both: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)
    few: Annotated[list[int], Field(max_length=1)] = []
    pairs: dict[str, int] = {}
    own: int = 0
    code: str = Field("ab", pattern="^[a-z]+$")

    @field_validator("own")
    @classmethod
    def _own(cls, value):
        if value:
            raise ValueError("nothing but zero will do")
        return value


@pytest.mark.parametrize(
    ("field", "value", "text", "hint"),
    [
        ("word", "neurn", "'neurn': it must be 'layer' or 'neuron'", "did you mean neuron?"),
        ("word", "LAYER", "'LAYER': it must be 'layer' or 'neuron'", "did you mean layer?"),
        ("word", None, "empty: it must be 'layer' or 'neuron'", None),
        ("colour", "bleu", "'bleu': it must be 'red' or 'blue'", "did you mean blue?"),
        ("count", "x", "'x': it must be a whole number", None),
        ("count", 1.5, "1.5: it must be a whole number", None),
        ("count", [1], "[1]: it must be a whole number", None),
        ("count", 0, "0: it must be at least 1", None),
        ("count", 10, "10: it must be at most 9", None),
        ("even", 3, "3: it must be a multiple of 2", None),
        ("share", "x", "'x': it must be a number", None),
        ("share", 0, "0: it must be more than 0", None),
        ("share", 1.0, "1: it must be less than 1", None),
        ("wide", float("inf"), "inf: it must be a finite number", None),
        ("flag", "maybe", "'maybe': it must be true or false", None),
        ("text", True, "true: it must be a text", None),
        ("both", "al", "'al': it must be a whole number or 'all'", "did you mean all?"),
        ("both", 0, "0: it must be at least 1 or 'all'", None),
        ("names", (), "[]: it must be a list of at least 1", None),
        ("names", 3, "3: it must be a list", None),
        ("names", ["a", 1], "['a', 1]: each in it must be a text", None),
        ("few", [1, 2], "[1, 2]: it must be a list of at most 1", None),
        ("pairs", 3, "3: it must be `name: value` pairs", None),
        ("own", 1, "1: nothing but zero will do", None),
        ("code", "3", "'3': it must match pattern '^[a-z]+$'", None),
    ],
)
def test_every_kind_of_mistake(field, value, text, hint):
    given = {field: value}
    with pytest.raises(ValidationError) as caught:
        Model(**given)
    assert mistake(caught.value, given) == (field, f"{field} cannot be {text}", hint)
    assert mistake(caught.value, given, "norm").text == f"norm.{field} cannot be {text}"


class Together(BaseModel):
    low: int
    high: int = 0

    @model_validator(mode="after")
    def _order(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def test_several_fields_together_and_one_left_out():
    with pytest.raises(ValidationError) as caught:
        Together(low=3)
    assert mistake(caught.value, {"low": 3}, "norm") == ("", "norm: low is above high", None)
    with pytest.raises(ValidationError) as caught:
        Together()
    assert mistake(caught.value, {}, "norm") == ("low", "norm.low must be given", None)


def test_words():
    assert one_of(["a"]) == "'a'"
    assert one_of(["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert nearest("tabel", ["table", "json"]) == "did you mean table?"
    assert nearest("x", ["table", "json"]) is None
