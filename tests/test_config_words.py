"""A configuration becomes words that are read as the same configuration."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro

from umbel import config
from umbel.config_words import as_words
from umbel.evaluation.hashing.evaluate_command import HashEvaluateConfig
from umbel.evaluation.hashing.fit import CrovcaConfig
from umbel.evaluation.hashing.fit_command import HashFitConfig
from umbel.evaluation.probe import ProbeConfig
from umbel.run import UserError
from umbel.ssl.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    deep_flag: bool = True
    pair: tuple[float, float] = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    out: Path
    some_text: str | None = None
    count: int = 3
    quick: bool = False
    inner: Inner = field(default_factory=Inner)


FIRST = Outer(names=("a",), out=Path("o"))


@pytest.mark.parametrize(
    "changed",
    [
        FIRST,
        replace(FIRST, names=("a b", "c")),
        replace(FIRST, some_text="-dash", count=-1),
        replace(FIRST, some_text="two words", quick=True),
        replace(FIRST, inner=Inner(deep_flag=False, pair=(1e-7, 3.0))),
    ],
)
def test_words_are_read_as_what_they_were_made_of(changed: Outer) -> None:
    assert config.parse(Outer, as_words(changed, FIRST), prog="test", help="") == changed


def test_what_is_usual_makes_no_word() -> None:
    assert as_words(FIRST, FIRST) == ["a", "--out", "o"]


def test_real_commands_read_their_words() -> None:
    made: list[tuple[Any, Any]] = []
    probe = ProbeConfig(backbone="run")
    made.append((replace(probe, shots=(1, 5), baselines=False, data="d", out=Path("p.json"), workers=-1), probe))
    fit = HashFitConfig(source="run", out=Path("coder"))
    made.append((replace(fit, method="itq", crovca=CrovcaConfig(epochs=3, learning_rate=1e-4)), fit))
    evaluate = HashEvaluateConfig(inputs=(Path("codes"), Path("embeddings")))
    made.append((replace(evaluate, k=7, baselines=("itq", "lsh")), evaluate))
    for changed, like in made:
        assert config.parse(type(changed), as_words(changed, like), prog="test", help="") == changed


def test_what_no_flag_can_hold_is_refused() -> None:
    first = PretrainConfig(data="d", out=Path("o"))
    policy = ({"name": "RandomGrayscale", "p": 0.5},)
    changed = replace(first, views=replace(first.views, policy=policy))
    with pytest.raises(UserError, match=r"views\.policy cannot be given on a command line .*recipe of its own"):
        as_words(changed, first)
