"""How far a training run is, by the files in its folder alone: cheap, and without disturbing it."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.run_folder import RunFolder
from umbel.task_record import is_held

TRAINING = ("pretrain", "finetune", "distill")
"""Commands whose folders are runs."""
RESULT = "result.json"
"""Written when a run has come to its end, which may be before its last step."""
BAD_IN_A_ROW = 3
"""Steps that were not finite, after which training gives up."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run's files tell."""

    step: int
    """The last one of which there are metrics; 0 without any."""
    steps: int | None
    """Of the whole run; None before its first metrics."""
    loss: float | None
    """Of the last line of metrics that has one."""
    seconds: float
    """Of training alone, over all starts: without saves, probes and the time before the first step."""
    left: float | None
    """Seconds of training to go, at the pace of the last line."""
    accuracy: float | None
    interval: float | None
    """Half the width of its 95 % interval."""
    shots: int | None
    locked: bool
    """A living process on this machine holds the folder."""
    diverged: bool
    """It gave up after steps that were not finite."""
    result: bool
    """It has written what it came to."""

    @property
    def ended(self) -> bool:
        """Whether all steps are done and saved."""
        return (self.result or (self.steps is not None and self.step >= self.steps)) and not self.locked


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run, begun or launched."""
    return _command(folder) is not None


def _command(folder: Path) -> str | None:
    """The command that a run's folder is of; None where it is no run."""
    try:
        opening = (folder / "config.yaml").read_text(errors="replace")[:200].splitlines()
    except OSError:
        return None
    return next((name for name in TRAINING if f"command: {name}" in opening), None)


def read_progress(folder: Path) -> Progress:
    """Read a run folder.

    Raises:
        UserError: the run's record is damaged, or of a newer Umbel.
    """
    run = RunFolder(folder)
    rows = [row for row in run.read_log("metrics") if row.get("epoch") and row.get("step")]
    batch = run.record()["lasting"].get("global_batch")
    last = rows[-1] if rows else None
    steps = _total_steps(run, last) if last else None
    step = int(last["step"]) if last else 0
    seconds, before = 0.0, 0
    for row in rows:
        pace = row.get("images_per_second")
        seconds += (row["step"] - before) * batch / pace if batch and pace else 0.0
        before = row["step"]
    left = None
    if last and steps and batch and last.get("images_per_second"):
        left = max(steps - step, 0) * batch / float(last["images_per_second"])
    probed = _probed(run)
    bad = sorted({int(row["step"]) for row in run.read_log("bad_steps") if "step" in row})[-BAD_IN_A_ROW:]
    return Progress(
        step=step,
        steps=steps,
        loss=next((row["loss"] for row in reversed(rows) if row.get("loss") is not None), None),
        seconds=seconds,
        left=left,
        accuracy=probed.get("accuracy"),
        interval=probed.get("interval"),
        shots=probed.get("shots"),
        locked=is_held(folder / ".lock"),
        result=(folder / RESULT).is_file(),
        diverged=len(bad) == BAD_IN_A_ROW and bad[-1] - bad[0] == BAD_IN_A_ROW - 1 and bad[0] > step - BAD_IN_A_ROW,
    )


def _total_steps(run: RunFolder, last: dict[str, Any]) -> int | None:
    """Steps of the whole run: the metrics tell steps an epoch, the configuration the epochs."""
    told = run.previous(_command(run.path) or "pretrain")
    epochs = (told or {}).get("train", {}).get("epochs")
    if epochs is None:
        return None
    per_epoch: int = round(last["step"] / last["epoch"])
    return max(1, math.floor(float(epochs) * per_epoch))


def _probed(run: RunFolder) -> dict[str, Any]:
    """Few-shot accuracy: of `umbel probe`, where its result is in the folder, or of the last probe while training."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        row = json.loads((run.path / "probe.json").read_text())["rows"][0]
        return {"accuracy": row["mean"], "interval": row["interval"], "shots": row["shots"]}
    rows = run.read_log("probes")
    return rows[-1] if rows else {}
