"""The tables of a sweep, by hand-made run folders."""

import json
import math
from pathlib import Path

import pytest

from umbel.sweep_grid import Grid, Run, read_grid
from umbel.sweep_results import groups, lines, read_rows, write_results


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two values with two seeds: the first three are done, the last one failed before it began."""
    grid = Grid(
        recipe="demo", data="d", out=tmp_path, over=("train.batch=4,8",), seeds=(0, 1), device="cpu", probe=None
    )
    found = read_grid(grid)
    for number, run in enumerate(found[:3]):
        folder = run.config.out
        folder.mkdir()
        (folder / "config.yaml").write_text("format: 1\ncommand: pretrain\ntrain: {epochs: 2.0}\n")
        lasting = {"global_batch": 4}
        (folder / "run.json").write_text(json.dumps({"format": 1, "lasting": lasting, "starts": []}))
        rows = [
            {"step": step, "epoch": step / 10, "loss": -float(number) - step / 20, "images_per_second": 8.0}
            for step in (10, 20)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if number < 2:
            probe = {"step": 20, "shots": 5, "accuracy": 0.5 + 0.1 * number, "interval": 0.02}
            (folder / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    return found


def states(runs: list[Run]) -> dict[str, dict[str, str | None]]:
    last = {"state": "failed", "why": "no such data."}
    return {run.name: {"state": "done", "why": None} if run is not runs[-1] else last for run in runs}


def test_a_row_tells_loss_accuracy_and_seconds(runs: list[Run]) -> None:
    told = lines(read_rows(runs, states(runs)))
    assert [line.split() for line in told] == [
        ["run", "loss", "accuracy", "seconds", "state"],
        ["batch=4,seed=0", "-1.0000", "50.0", "±", "2.0", "%", "(5-shot)", "10.0", "done"],
        ["batch=4,seed=1", "-2.0000", "60.0", "±", "2.0", "%", "(5-shot)", "10.0", "done"],
        ["batch=8,seed=0", "-3.0000", "-", "10.0", "done"],
        ["batch=8,seed=1", "-", "-", "-", "failed:", "no", "such", "data."],
    ]


def test_mean_and_spread_are_over_seeds_that_are_done(runs: list[Run]) -> None:
    first, second = groups(read_rows(runs, states(runs)))
    assert first["values"] == {"train.batch": 4}
    assert (first["runs"], second["runs"]) == (2, 1)
    assert first["loss"] == pytest.approx({"mean": -1.5, "spread": math.sqrt(0.5)})
    assert first["accuracy"] == pytest.approx({"mean": 0.55, "spread": 0.1 / math.sqrt(2)})
    assert second["loss"] == {"mean": -3.0, "spread": None}
    assert second["accuracy"] is None


def test_a_run_that_is_not_done_does_not_count(runs: list[Run]) -> None:
    still = states(runs) | {runs[1].name: {"state": "running", "why": None}}
    first, _ = groups(read_rows(runs, still))
    assert (first["runs"], first["loss"]) == (1, {"mean": -1.0, "spread": None})


def test_a_result_of_the_probe_stands_over_the_one_while_training(runs: list[Run]) -> None:
    row = {"mean": 0.75, "interval": 0.01, "shots": 1}
    (runs[0].config.out / "probe.json").write_text(json.dumps({"format": 1, "rows": [row]}))
    assert "75.0 ± 1.0 % (1-shot)" in lines(read_rows(runs, states(runs)))[1]


def test_both_files_hold_the_same(runs: list[Run], tmp_path: Path) -> None:
    write_results(tmp_path, "demo", read_rows(runs, states(runs)), seeds=True)
    told = json.loads((tmp_path / "results.json").read_text())
    assert (told["format"], told["command"]) == (1, "sweep")
    assert [row["loss"] for row in told["rows"]] == [-1.0, -2.0, -3.0, None]
    assert told["rows"][3] | {"why": "no such data."} == told["rows"][3]
    text = (tmp_path / "results.md").read_text()
    assert "| batch=4,seed=0 | -1.0000 | 50.0 ± 2.0 % (5-shot) | 10.0 | done |" in text
    assert "| batch=4 | 2 | -1.5000 ± 0.7071 | 55.0 ± 7.1 % |" in text
    write_results(tmp_path, "demo", read_rows(runs, states(runs)), seeds=False)
    assert json.loads((tmp_path / "results.json").read_text())["groups"] == []
