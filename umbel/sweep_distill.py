"""What a sweep of distillations found: a table of students with and without their teacher, and a picture of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.evaluation.chart import save_chart
from umbel.evaluation.distill_picture import HEIGHT, WIDTH, StudentPoint, paint
from umbel.sweep_results import Row, markdown_table
from umbel.text_table import aligned

FILE, PICTURE, COMMAND = "result.json", "students.png", "umbel sweep"
TEACH = "loss.teach"
HEADINGS = ("student", "first weights", "GMAC", "parameters", "learns from", "top-1", "macro top-1", "5-shot", "runs")
OF_STUDENT = ("student", "init", TEACH)
"""Keys that the table has columns for; other values stand behind the student's name."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """Runs that differ in the seed alone, and are done."""

    name: str
    init: str | None
    taught: bool
    multiply_adds: int
    parameters: int
    measured: dict[str, list[float]]
    """Over the seeds, by measure: top1, macro_top1, few_shot; [] where there is none."""
    teacher: list[float]
    """Its top-1."""
    unseen: bool
    """Whether the photographs of its 5-shot accuracy are of split test, and so none that it was trained on."""

    def mean(self, measure: str) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.measured[measure]) if self.measured[measure] else None

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        return (
            self.name,
            self.init or "drawn",
            f"{self.multiply_adds / 1e9:.3g}",
            f"{self.parameters / 1e6:.3g} M",
            "teacher" if self.taught else "labels alone",
            *(_percent(self.measured[measure]) for measure in ("top1", "macro_top1", "few_shot")),
            str(max(map(len, self.measured.values()))),
        )


def students(rows: Sequence[Row]) -> list[Student]:
    """The students whose runs are done, in the order of the runs."""
    found = []
    for group in dict.fromkeys(row.run.group() for row in rows):
        alike = [row for row in rows if row.run.group() == group and row.state == "done"]
        told = [result for row in alike if (result := _read(row.run.config.out)) is not None]
        if told:
            found.append(_student(alike[0], told))
    return found


def table(found: Sequence[Student]) -> list[tuple[str, ...]]:
    """Headings and cells."""
    return [HEADINGS, *(student.cells() for student in found)]


def lines(found: Sequence[Student]) -> list[str]:
    """The table as text."""
    return aligned(table(found), right=(2, 3, 5, 6, 7, 8))


def write_students(folder: Path, found: Sequence[Student]) -> None:
    """Add the table to results.md and draw students.png."""
    if not found:
        return
    file = folder / "results.md"
    headings, *cells = table(found)
    words = "Students with and without their teacher (mean over seeds ± the sample standard deviation)"
    seen = "5-shot accuracy is of photographs that they were trained on: there is no split test"
    where = ", on photographs that they never saw" if all(student.unseen for student in found) else f"; {seen}"
    text = f"\n{words}{where}:\n\n{markdown_table(headings, cells)}\n"
    file.write_text(file.read_text() + text)
    # One measure for all: a student that was taught without labels has no classifier.
    measure = "top1" if all(student.measured["top1"] for student in found) else "few_shot"
    points = pair(found, measure)
    if points:
        words = {"top1": "top-1 accuracy", "few_shot": "5-shot accuracy"}[measure]
        teacher = [value for student in found for value in student.teacher] if measure == "top1" else []
        line = statistics.fmean(teacher) if teacher else None
        save_chart(paint(points, words, line), folder / PICTURE, COMMAND, width=WIDTH, height=HEIGHT)


def pair(found: Sequence[Student], measure: str) -> list[StudentPoint]:
    """Each student once, without and with its teacher."""
    points = []
    for name, init in dict.fromkeys((student.name, student.init) for student in found):
        same = {student.taught: student for student in found if (student.name, student.init) == (name, init)}
        alone, taught = (same[key].mean(measure) if key in same else None for key in (False, True))
        if alone is not None or taught is not None:
            cost = next(iter(same.values())).multiply_adds
            points.append(
                StudentPoint(name=name, multiply_adds=cost, pretrained=init is not None, alone=alone, taught=taught)
            )
    return points


def _student(row: Row, told: Sequence[dict[str, Any]]) -> Student:
    first = told[0]
    others = [f"{key.rpartition('.')[2]} {value}" for key, value in row.run.values.items() if key not in OF_STUDENT]
    measured: dict[str, list[float]] = {"top1": [], "macro_top1": [], "few_shot": []}
    teacher = []
    for result in told:
        split = result["splits"].get("test") or result["splits"].get("val")
        for measure in ("top1", "macro_top1"):
            measured[measure] += [split["student"][measure]["value"]] if split else []
        measured["few_shot"] += [result["few_shot"]["accuracy"]] if result["few_shot"] else []
        teacher += [split["teacher"]["top1"]["value"]] if split and split["teacher"] else []
    return Student(
        name=" ".join([str(first["student"]), *(f"({other})" for other in others)]),
        init=first["init"],
        taught=bool(first["teach"]),
        multiply_adds=int(first["multiply_adds"]),
        parameters=int(first["parameters"]),
        measured=measured,
        teacher=teacher,
        unseen=all(result["few_shot"] is None or result["few_shot"].get("unseen", True) for result in told),
    )


def _read(run: Path) -> dict[str, Any] | None:
    """A run's result.json; None where it is not there yet."""
    try:
        told: dict[str, Any] = json.loads((run / FILE).read_text())
    except (OSError, ValueError):
        return None
    return told


def _percent(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread} %"
