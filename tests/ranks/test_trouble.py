"""An error as other processes are told it."""

import pickle

import torch

from flatmeter.errors import DataError, NonFinite, Stopped
from flatmeter.ranks.trouble import Elsewhere, Trouble, urgency, worst


class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def told(rank, error):
    return pickle.loads(pickle.dumps(Trouble.of(rank, error)))


def test_an_error_arrives_as_it_was():
    found = told(1, DataError("no", where="here", hint="do")).error()
    assert isinstance(found, DataError)
    assert (found.message, found.where, found.hint) == ("no", "here", "do")
    assert isinstance(told(1, torch.OutOfMemoryError("full")).error(), torch.OutOfMemoryError)


def test_one_that_cannot_be_sent_arrives_in_words():
    found = told(1, Stubborn("a", "b")).error()
    assert isinstance(found, Elsewhere)
    assert str(found) == "Stubborn: a and b"
    assert "Stubborn: a and b" in str(found.__cause__)


def test_what_all_act_on():
    errors = [None, torch.OutOfMemoryError(), NonFinite("one"), NonFinite("two")]
    troubles = [Trouble.of(rank, error) for rank, error in enumerate(errors)]
    assert worst(troubles).rank == 2
    assert worst([*troubles, Trouble.of(4, Stopped("now"))]).rank == 4
    rising = [None, MemoryError(), ValueError(), Stopped("now"), KeyboardInterrupt()]
    assert sorted(rising, key=urgency) == rising
