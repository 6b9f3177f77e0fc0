"""`umbel demo` and the examples as a whole: photographs in, one report out, every result where it belongs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.0}
reader: {canvas: 64, window: 2}
train: {batch: 8, epochs: 8.0, log_every: 2, save_every: 4}
"""
EXAMPLES = Path(__file__).parents[2] / "examples"


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=400
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for number in range(60):
        path = folder / f"<species> {number % 3}" / f"photo {number}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 160, (6, 6, 3), dtype=np.uint8)
        pixels[..., number % 3] += 80  # a class has a color
        Image.fromarray(pixels).resize((50 + number % 9, 60)).save(path)
    return folder


@pytest.fixture(scope="module")
def demo(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object], str]:
    scratch = tmp_path_factory.mktemp("demo")
    (scratch / "tiny.yaml").write_text(RECIPE)
    flags = ["demo", "--data", photographs, "--out", scratch / "out", "--recipe", scratch / "tiny.yaml", "--epochs", 2]
    done = python("-m", "umbel", *flags)
    assert done.returncode == 0, done.stderr
    return scratch / "out", list(flags), done.stdout


def test_the_last_line_is_the_report(demo: tuple[Path, list[object], str]) -> None:
    out, _, told = demo
    report = Path(told.splitlines()[-1])
    assert report == out / "run" / "report.html"
    page = report.read_text()
    assert "&lt;species&gt; 0" in page
    assert "<species>" not in page


def test_a_fifth_of_each_class_is_the_test_split(demo: tuple[Path, list[object], str]) -> None:
    index = json.loads((demo[0] / "shards" / "index.json").read_text())
    assert index["splits"] == {"test": 12, "train": 48}


def test_every_step_left_its_result_and_its_cost(demo: tuple[Path, list[object], str]) -> None:
    run = demo[0] / "run"
    rows = json.loads((run / "probe.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "pretrained backbone",
        "color histogram",
        "raw pixels",
        "untrained backbone",
    ]
    by_name = {row["name"]: row["mean"] for row in rows}
    assert by_name["color histogram"] > 0.9  # the classes are colors
    names = {score["name"] for score in json.loads((run / "hash.json").read_text())["scores"]}
    assert any("codes" in name for name in names)
    assert any("itq" in name for name in names)
    steps = json.loads((run / "steps.json").read_text())["steps"]
    assert all(step["done"] and step["seconds"] > 0 and step["peak_memory_gib"] > 0.1 for step in steps)
    assert len(steps) == 7
    assert (run / "export" / "timm" / "model.safetensors").is_file()


def test_the_same_command_again_does_no_step_twice(demo: tuple[Path, list[object], str]) -> None:
    out, flags, _ = demo
    before = (out / "run" / "probe.json").stat().st_mtime_ns
    again = python("-m", "umbel", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 7
    assert (out / "run" / "probe.json").stat().st_mtime_ns == before


def test_another_demo_does_not_take_its_place(demo: tuple[Path, list[object], str]) -> None:
    _, flags, _ = demo
    other = python("-m", "umbel", *flags, "--shots", 3)
    assert other.returncode == 2
    assert "shots: 5 there, 3 now" in other.stderr


def test_the_example_of_few_shot_evaluation(demo: tuple[Path, list[object], str]) -> None:
    done = python(EXAMPLES / "few_shot.py", demo[0] / "run", demo[0] / "shards")
    assert done.returncode == 0, done.stderr
    assert "5 shots: " in done.stdout
    assert "12 queries" in done.stdout


def test_the_example_of_export(demo: tuple[Path, list[object], str], photographs: Path, tmp_path: Path) -> None:
    photograph = next(photographs.rglob("*.jpg"))
    done = python(EXAMPLES / "export.py", demo[0] / "run", tmp_path / "timm", photograph)
    assert done.returncode == 0, done.stderr
    assert "a feature of 32 numbers" in done.stdout
