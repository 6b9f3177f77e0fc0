"""A run's checkpoints: atomic folders with everything to continue, and the teacher's backbone for timm beside it.

checkpoints/step-00000500/training.pt              student, teacher, optimizer, step
checkpoints/step-00000500/backbone/                config.json, model.safetensors: the teacher, loadable by timm alone
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.run import UserError, atomic_folder
from umbel.ssl.network import Network

FORMAT = 1


def save_checkpoint(
    folder: Path, *, step: int, student: Network, teacher: Network, optimizer: torch.optim.Optimizer, card: ModelCard
) -> Path:
    """Write the checkpoint of `step` completed steps; it appears whole or not at all.

    Raises:
        UserError: it cannot be written (a full disk); earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        return path
    state = {
        "format": FORMAT,
        "step": step,
        "student": student.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with new_checkpoint(path) as beside:
        torch.save(state, beside / "training.pt")
        write_timm_folder(beside / "backbone", teacher.backbone.state_dict(), card)
    return path


@contextlib.contextmanager
def new_checkpoint(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the checkpoint `path`, whole or not at all.

    Raises:
        UserError: it cannot be written (a full disk); earlier checkpoints are untouched.
    """
    folder = path.parent
    try:
        with atomic_folder(path) as beside:
            yield beside
    except (OSError, RuntimeError) as error:
        # torch and safetensors report a full disk each in their own exception.
        before = latest_checkpoint(folder)
        kept = f"the last good one is {before}" if before else "there is no earlier one"
        raise UserError(
            f"checkpoint {path} could not be written ({' '.join(str(error).split())[:160]}); {kept}."
        ) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "training.pt").is_file())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return next(reversed(list_checkpoints(folder)), None)


def load_checkpoint(
    path: Path, *, student: Network, teacher: Network, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    """Restore a checkpoint and return the number of completed steps.

    Raises:
        UserError: unreadable, of a newer format, or of another network.
    """
    state = read_state(path, device, needed=("student", "teacher", "optimizer"))
    try:
        student.load_state_dict(state["student"])
        teacher.load_state_dict(state["teacher"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is of another network: {' '.join(str(error).split())[:200]}.") from error
    return int(state["step"])


def read_state(path: Path, device: torch.device, *, needed: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint's training.pt holds, on the device: format, step, and the parts that are needed.

    Raises:
        UserError: unreadable, another program's, or of a newer format.
    """
    try:
        # Accelerate numbers the CPUs of several ranks, and torch restores nothing to cpu:0.
        place = torch.device("cpu") if device.type == "cpu" else device
        state: Any = torch.load(path / "training.pt", map_location=place, weights_only=True)
        if not isinstance(state, dict) or not {"format", "step", *needed} <= set(state):
            raise ValueError("it is not a checkpoint of Umbel")
    except Exception as error:
        # A damaged file fails in torch, in its zip reader or in its unpickler, each with an exception of its own.
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {path} cannot be read ({reason[:160]}): remove its folder to continue from the one before."
        ) from error
    if state.get("format") != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {state.get('format')}; this Umbel reads {FORMAT}: upgrade Umbel."
        )
    return state


def remove_old(folder: Path, *, keep_last: int, keep_every: int) -> None:
    """Remove all but the newest `keep_last` checkpoints and those of every `keep_every`-th step (0: none)."""
    for path in list_checkpoints(folder)[:-keep_last]:
        step = int(path.name.removeprefix("step-"))
        if keep_every and step % keep_every == 0:
            continue
        # Renamed first: a checkpoint that is half removed must not look like one.
        doomed = path.with_name(f".{path.name}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a kill in the middle of a save or a removal left, so that it takes no room."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
