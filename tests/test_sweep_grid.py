"""The runs of a sweep: all combinations, named by their values, and nothing wrong among them before one begins."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from umbel import cli, config
from umbel.run import UserError
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.sweep_grid import Grid, Run, read_grid, tasks

FIRST = Grid(recipe="demo", data="d", out=Path("out"), over=(), seeds=(), device="cpu", probe=None)


def read(*over: str, **asked: Any) -> list[Run]:
    return read_grid(dataclasses.replace(FIRST, over=over, **asked))


def test_every_combination_is_run_once_and_named_by_its_values() -> None:
    runs = read("optim.learning-rate=1e-4,3e-3", "train.batch=8,16,32", seeds=(0, 7))
    assert len(runs) == 12
    assert [run.name for run in runs[:3]] == [
        "learning_rate=1e-4,batch=8,seed=0",
        "learning_rate=1e-4,batch=8,seed=7",
        "learning_rate=1e-4,batch=16,seed=0",
    ]
    last = runs[-1]
    assert last.values == {"optim.learning_rate": 0.003, "train.batch": 32}
    assert (last.config.optim.learning_rate, last.config.train.batch, last.config.seed) == (0.003, 32, 7)
    assert last.config.out == Path("out") / last.name
    assert last.group() == "learning_rate=3e-3,batch=32"
    # What is not varied is the recipe's.
    assert last.config.backbone.width == 128


def test_a_runs_words_are_read_as_its_configuration() -> None:
    grid = dataclasses.replace(
        FIRST, over=("views.global_area=[0.3, 0.9],[0.5, 1.0]", "loss.center_with_teacher=true,false"), probe="labeled"
    )
    runs = read_grid(grid)
    assert [run.name for run in runs][1] == "global_area=0.3-0.9,center_with_teacher=false"
    for run, task in zip(runs, tasks(runs, grid), strict=True):
        found = cli.find(task.words)
        assert found is not None
        read_again = config.parse(PretrainConfig, found[1], prog="umbel pretrain", help="")
        assert read_again == run.config
        assert read_again.probe.data == "labeled"
        assert task.folder == run.config.out
    assert runs[1].config.views.global_area == (0.3, 0.9)


def test_values_may_be_possible_together_alone() -> None:
    """Width 96 does not go with the recipe's four heads divided otherwise: 90 needs three."""
    (run,) = read("backbone.width=90", "backbone.heads=3")
    assert (run.config.backbone.width, run.config.backbone.heads) == (90, 3)
    with pytest.raises(UserError, match=r"backbone\.width 90 must be a multiple"):
        read("backbone.width=90")


def test_keys_that_end_alike_are_named_in_full() -> None:
    (run,) = read("backbone.width=64", "head.width=32")
    assert run.name == "backbone.width=64,head.width=32"


def test_seeds_alone_are_a_sweep() -> None:
    assert [run.name for run in read(seeds=(0, 1))] == ["seed=0", "seed=1"]
    assert {run.group() for run in read(seeds=(0, 1))} == {""}


@pytest.mark.parametrize(
    ("over", "seeds", "words"),
    [
        (["optm.clip=1"], (), "unknown key 'optm', did you mean 'optim'?"),
        (["optim.clib=1"], (), "unknown key 'clib', did you mean 'clip'?"),
        (["train.batch=8,many"], (), "batch must be of type int, not 'many'"),
        (["train.batch=8,0"], (), "train.batch must be at least 1, not 0"),
        (["train.batch"], (), "say KEY=a,b,c"),
        (["train.batch=8,,16"], (), "say KEY=a,b,c"),
        (["train.batch=8,8"], (), "two runs would be called batch=8"),
        (["optim.learning_rate=1e-3,0.001"], (), "would be the same run: give every value once"),
        (["train.batch=8", "train.batch=16"], (), "is given twice"),
        (["train=8"], (), "train must be a mapping of settings"),
        (["seed.x=8"], (), "seed must be of type int"),
        (["out=a,b"], (), "that is for the sweep to say"),
        (["seed=1,2"], (1,), "give --seeds"),
        (["train.batch=[8"], (), "none that a recipe could have"),
        ([], (), "something to vary"),
        ([], (1, 1), "two runs would be called seed=1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(over: list[str], seeds: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError) as told:
        read(*over, seeds=seeds)
    assert words in str(told.value)
