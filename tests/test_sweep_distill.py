"""A sweep of distillations: the grid's runs, the table of students, the picture; by hand-made run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from umbel import cli, config
from umbel.evaluation.chart import ON_PAPER
from umbel.evaluation.distill_picture import HEIGHT, WIDTH, StudentPoint, in_words, paint
from umbel.run import UserError
from umbel.ssl.distillation.config import DistillConfig
from umbel.sweep_distill import lines, pair, students, write_students
from umbel.sweep_grid import Grid, Run, read_grid, tasks
from umbel.sweep_results import read_rows


def grid(recipe: str = "distill/grid", *over: str, out: Path = Path("out"), **settings: Any) -> Grid:
    given: dict[str, Any] = {"data": "shards", "seeds": (), "device": "cpu", "probe": None, "teacher": "tuned"}
    return Grid(recipe=recipe, out=out, over=over, **given | settings)


def test_the_grid_is_one_recipe() -> None:
    """{scratch, pretrained} x {alone, taught} for two ConvNeXt and two ViT students; every command reads as its run."""
    runs = read_grid(grid())
    assert len(runs) == 16
    assert {run.config.student for run in runs} == {  # type: ignore[union-attr]
        "convnext_atto", "convnext_nano", "vit_tiny_patch16_224", "vit_small_patch16_224",
    }  # fmt: skip
    assert runs[0].name == "student=convnext-atto,init=null,teach=false"
    assert [(run.values["init"], run.values["loss.teach"]) for run in runs[:4]] == [
        (None, False), (None, True), ("pretrained", False), ("pretrained", True),
    ]  # fmt: skip
    for run, task in zip(runs, tasks(runs, grid()), strict=True):
        found = cli.find(task.words)
        assert found is not None
        assert found[0] == "distill"
        assert config.parse(DistillConfig, found[1], prog="umbel distill", help="") == run.config


def test_the_command_line_stands_over_what_a_recipe_lists() -> None:
    runs = read_grid(grid("distill/grid", "student=convnext_atto", "optim.learning_rate=1e-3,1e-4", seeds=(0, 1)))
    assert len(runs) == 2 * 2 * 2 * 2
    assert {run.config.student for run in runs} == {"convnext_atto"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (grid(teacher=None), "say from which backbone, --teacher BACKBONE"),
        (grid(probe="labeled"), "--probe is for pretraining"),
        (
            grid("demo", "train.batch=4,8"),
            "--teacher is for recipes of umbel distill, and demo is one of umbel pretrain",
        ),
        (grid("distill/grid", "recipe=a,b"), "that is for the sweep to say"),
        (grid("distill/grd"), "recipe 'distill/grd' is unknown"),
    ],
)
def test_what_does_not_go_together(asked: Grid, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_grid(asked)


def test_values_that_are_no_list(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("format: 1\ncommand: distill\nover: {student: convnext_atto}\n")
    with pytest.raises(UserError, match="over must be a mapping of keys to lists"):
        read_grid(grid(str(recipe)))


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two students, alone and taught, two seeds; the last run failed."""
    over = ("student=convnext_atto,vit_tiny_patch16_224", "init=null", "loss.teach=false,true")
    found = read_grid(grid("distill/labels", *over, out=tmp_path, seeds=(0, 1)))
    for number, run in enumerate(found[:-1]):
        folder = run.config.out
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result(run, 0.5 + 0.02 * number)))
    return found


def result(run: Run, top1: float) -> dict[str, Any]:
    def estimates(value: float) -> dict[str, Any]:
        return {name: {"value": value, "low": 0.0, "high": 1.0} for name in ("top1", "macro_top1")}

    cost = 1_000_000_000 if run.config.student == "convnext_atto" else 2_000_000_000  # type: ignore[union-attr]
    return {
        "student": run.config.student,  # type: ignore[union-attr]
        "init": None,
        "teach": run.config.loss.teach,  # type: ignore[union-attr]
        "multiply_adds": cost,
        "parameters": 3_400_000,
        "few_shot": {"accuracy": 0.4},
        "splits": {"test": {"student": estimates(top1), "teacher": estimates(0.8)}},
    }


def test_it_is_said_where_students_were_trained_on_what_measures_them(runs: list[Run], tmp_path: Path) -> None:
    states = {run.name: {"state": "done", "why": None} for run in runs}
    for unseen, words in ((True, ", on photographs that they never saw:"), (False, "that they were trained on")):
        told = result(runs[0], 0.5)
        told["few_shot"]["unseen"] = unseen
        (runs[0].config.out / "result.json").write_text(json.dumps(told))
        (tmp_path / "results.md").write_text("")
        write_students(tmp_path, students(read_rows(runs, states)))
        assert words in (tmp_path / "results.md").read_text()


def test_a_student_is_told_once_without_and_with_its_teacher(runs: list[Run], tmp_path: Path) -> None:
    states = {run.name: {"state": "failed" if run is runs[-1] else "done", "why": None} for run in runs}
    found = students(read_rows(runs, states))
    told = [line.split() for line in lines(found)]
    assert told[1] == [
        *("convnext_atto", "drawn", "1", "3.4", "M", "labels", "alone"),
        *("51.0", "±", "1.4", "%", "51.0", "±", "1.4", "%", "40.0", "±", "0.0", "%", "2"),
    ]
    assert told[4][-2:] == ["%", "1"]
    assert pair(found, "top1") == [
        StudentPoint(
            name="convnext_atto", multiply_adds=10**9, pretrained=False, alone=pytest.approx(0.51),
            taught=pytest.approx(0.55),
        ),
        StudentPoint(
            name="vit_tiny_patch16_224", multiply_adds=2 * 10**9, pretrained=False, alone=pytest.approx(0.59),
            taught=pytest.approx(0.62),
        ),
    ]  # fmt: skip
    for _ in range(2):  # written anew each time, as `umbel sweep` does after every run
        (tmp_path / "results.md").write_text("# Sweep\n")
        write_students(tmp_path, found)
    assert (tmp_path / "results.md").read_text().count("| convnext_atto |") == 2
    assert Image.open(tmp_path / "students.png").size == (round(130 * WIDTH), round(130 * HEIGHT))


def test_the_picture_joins_both_by_a_line_and_names_each() -> None:
    points = [
        StudentPoint(name="atto", multiply_adds=5 * 10**8, pretrained=False, alone=0.5, taught=0.6),
        StudentPoint(name="nano", multiply_adds=2 * 10**9, pretrained=True, alone=0.7, taught=None),
    ]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    paint(points, "top-1", 0.8)(figure, ON_PAPER)
    (axes,) = figure.axes
    dots = [tuple(dot.get_offsets()[0]) for dot in axes.collections]
    assert dots == [pytest.approx((0.5, 50)), pytest.approx((0.5, 60)), pytest.approx((2, 70))]
    joined, teacher = axes.lines
    assert [list(joined.get_xdata()), list(joined.get_ydata())] == [[0.5, 0.5], [50, 60]]
    assert list(teacher.get_ydata()) == [80, 80]
    assert [text.get_text() for text in axes.texts] == ["atto", "nano"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "from scratch, alone", "from scratch, taught", "pretrained, alone", "the teacher",
    ]  # fmt: skip
    assert "nano pretrained 2 GMAC 70.0 % alone, - taught" in in_words(points)


def test_a_sweep_that_distills_lists_its_commands(
    foreign_shards: Callable[..., Path], umbel: Callable[..., Any]
) -> None:
    told = umbel("sweep", "distill/grid", "--teacher", "tuned", "--data", foreign_shards(), "--out", "o", "--dry-run")
    assert told.code == 0, told.err
    assert told.out.count("umbel distill tuned --student") == 16
    assert told.out.count("--loss.no-teach") == 8
    assert told.out.count("--init pretrained") == 8
