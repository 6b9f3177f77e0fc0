"""Names find their rows, and a name that stands twice is told."""

import numpy as np
import pytest

from umbel.data.names import Names
from umbel.run import UserError


def test_every_name_finds_its_row_and_no_other_finds_one() -> None:
    dice = np.random.default_rng(0)
    known = [f"{number}é" for number in dice.permutation(5000)]
    names = Names(iter(known), what="photograph")
    assert len(names) == 5000
    assert [names.row(name) for name in known] == list(range(5000))
    assert all(names.row(f"{number}") is None for number in range(5000))


def test_none_are_none() -> None:
    assert Names([], what="photograph").row("a") is None


def test_bytes_that_are_no_text_are_names_too() -> None:
    assert Names(["a", "b\udcff"], what="photograph").row("b\udcff") == 1


def test_a_name_that_stands_twice_is_told() -> None:
    with pytest.raises(UserError, match=r"photograph 4 .b. has the name of photograph 2: "):
        Names(["a", "b", "c", "b"], what="photograph")
