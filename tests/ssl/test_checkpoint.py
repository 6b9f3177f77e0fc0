"""Checkpoints: whole or not there, the earlier one safe, damaged and foreign ones refused, loadable by timm alone."""

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard
from umbel.run import UserError
from umbel.ssl import checkpoint
from umbel.ssl.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_old,
    remove_unfinished,
    save_checkpoint,
)
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=2)


class Parts(NamedTuple):
    """What a checkpoint is made of."""

    student: Network
    teacher: Network
    optimizer: torch.optim.Optimizer
    card: ModelCard


def parts(seed: int = 0, backbone: BackboneConfig = TINY) -> Parts:
    torch.manual_seed(seed)
    head = HeadConfig(hidden=8, width=8)
    student, teacher = (Network(build(backbone, 32), head, 0.0) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1)
    sum(p.square().sum() for p in student.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    card = ModelCard(
        architecture=backbone.name,
        arguments=model_arguments(backbone, 32),
        image_size=32,
        mean=INAT_PLANTAE_MEAN,
        std=INAT_PLANTAE_STD,
        num_features=16,
    )
    return Parts(student, teacher, optimizer, card)


@pytest.fixture(scope="module")
def trained() -> Parts:
    return parts(1)


def save(folder: Path, step: int, these: Parts) -> Path:
    return save_checkpoint(folder, step=step, **these._asdict())


def load(path: Path, these: Parts, device: str = "cpu") -> int:
    student, teacher, optimizer, _ = these
    return load_checkpoint(path, student=student, teacher=teacher, optimizer=optimizer, device=torch.device(device))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("device", ["cpu", "cpu:1"])  # Accelerate numbers the CPUs of several ranks
def test_everything_comes_back(device: str, tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 40, trained)
    assert path.name == "step-00000040"
    other = parts(2)
    assert load(path, other, device) == 40
    for name in ("student", "teacher", "optimizer"):
        assert equal(getattr(other, name).state_dict(), getattr(trained, name).state_dict()), name


def test_the_newest_is_found_and_none_where_there_is_none(tmp_path: Path, trained: Parts) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for step in (5, 100, 20):
        save(tmp_path, step, trained)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005", "step-00000020", "step-00000100"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000100"


def test_a_step_that_is_saved_already_is_left_alone(tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    before = (path / "training.pt").stat().st_mtime_ns
    assert save(tmp_path, 5, parts(3)) == path
    assert (path / "training.pt").stat().st_mtime_ns == before


class Torn(Exception):
    """Ends a write in the middle."""


@pytest.mark.parametrize("error", [Torn, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["first file", "second file"])
def test_a_failure_in_the_middle_leaves_the_earlier_one_and_no_half(
    error: type[BaseException], where: str, tmp_path: Path, trained: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5, trained)

    def fail(_: object, target: Path, *__: object) -> None:
        (target if isinstance(target, Path) else tmp_path / "x").touch()
        raise error

    if where == "first file":
        monkeypatch.setattr(torch, "save", fail)
    else:
        monkeypatch.setattr(checkpoint, "write_timm_folder", lambda *_: fail(None, tmp_path / "ignored"))
    with pytest.raises(error):
        save(tmp_path, 10, trained)
    assert list_checkpoints(tmp_path) == [tmp_path / "step-00000005"]
    assert not (tmp_path / "step-00000010").exists()
    assert not list(tmp_path.glob(".step*"))
    assert load(tmp_path / "step-00000005", parts(2)) == 5


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
    ],
    ids=["by the system", "by torch"],
)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_is_answered_with_the_checkpoint_that_survives(
    error: Exception, earlier: bool, tmp_path: Path, trained: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        save(tmp_path, 5, trained)

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError) as caught:
        save(tmp_path, 10, trained)
    assert "step-00000010 could not be written" in str(caught.value)
    kept = f"the last good one is {tmp_path / 'step-00000005'}." if earlier else "there is no earlier one."
    assert str(caught.value).endswith(kept)
    assert not list(tmp_path.glob("*10*"))


SAVE_SLOWLY = """
import sys, time
from pathlib import Path
from umbel.run import atomic_folder
with atomic_folder(Path(sys.argv[1]) / "step-00000010") as beside:
    (beside / "training.pt").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_killed_in_the_middle_no_half_folder_counts_and_the_step_can_be_saved_again(
    tmp_path: Path, trained: Parts
) -> None:
    save(tmp_path, 5, trained)
    process = subprocess.Popen([sys.executable, "-c", SAVE_SLOWLY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000005"
    save(tmp_path, 10, trained)
    assert load(tmp_path / "step-00000010", parts(2)) == 10


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, 0, [60]), (2, 0, [50, 60]), (9, 0, [10, 20, 30, 40, 50, 60]), (1, 20, [20, 40, 60]), (2, 30, [30, 50, 60])],
)
def test_the_newest_and_every_so_many_are_kept(
    keep_last: int, keep_every: int, kept: list[int], tmp_path: Path, trained: Parts
) -> None:
    for step in range(10, 70, 10):
        save(tmp_path, step, trained)
    remove_old(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == kept


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path, trained: Parts) -> None:
    save(tmp_path, 5, trained)
    for name in (".step-00000006.123.tmp", ".step-00000004.removed"):
        (tmp_path / name / "backbone").mkdir(parents=True)
        (tmp_path / name / "training.pt").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000005"]
    remove_unfinished(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    state = torch.load(path / "training.pt", weights_only=True)
    torch.save(state | {"format": 2}, path / "training.pt")
    with pytest.raises(UserError, match="has format 2; this Umbel reads 1: upgrade Umbel"):
        load(path, parts(2))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(damage: str, tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    content = (path / "training.pt").read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"not a checkpoint",
        "flipped": content[:100] + bytes(byte ^ 0xFF for byte in content[100:400]) + content[400:],
    }
    (path / "training.pt").write_bytes(changed[damage])
    with pytest.raises(UserError, match=r"step-00000005 cannot be read") as caught:
        load(path, parts(2))
    assert "\n" not in str(caught.value)


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    for writer in (lambda file: torch.save(Bomb(tmp_path / "mark"), file), lambda file: pickled(file, tmp_path)):
        writer(path / "training.pt")
        with pytest.raises(UserError, match="step-00000005"):
            load(path, parts(2))
    assert not (tmp_path / "mark").exists()


def pickled(file: Path, folder: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb(folder / "mark")))


@pytest.mark.parametrize("content", [[1, 2], {"format": 1}, {"format": 1, "step": 3, "student": {}}])
def test_a_file_of_something_else_is_refused(content: object, tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    torch.save(content, path / "training.pt")
    with pytest.raises(UserError, match="step-00000005"):
        load(path, parts(2))


@pytest.mark.parametrize(
    "other",
    [
        BackboneConfig(name="vit_tiny_patch16_224", width=24, depth=1, heads=2, patch=8, registers=2),
        BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=2, heads=2, patch=8, registers=2),
        BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=0),
    ],
)
def test_another_network_is_refused(other: BackboneConfig, tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    with pytest.raises(UserError, match="step-00000005 is of another network") as caught:
        load(path, parts(2, other))
    assert "\n" not in str(caught.value)


LOAD = """
import sys, timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
torch.manual_seed(0)
features = model(torch.randn(2, 3, 32, 32))
assert not any(name.startswith("umbel") for name in sys.modules)
print(model.pretrained_cfg["mean"], model.num_features)
torch.save(features, sys.argv[2])
"""


@torch.inference_mode()
def test_timm_alone_loads_the_teacher(tmp_path: Path, trained: Parts) -> None:
    path = save(tmp_path, 5, trained)
    command = [sys.executable, "-c", LOAD, str(path / "backbone"), str(tmp_path / "features.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0.4293" in done.stdout
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    found = torch.load(tmp_path / "features.pt", weights_only=True)
    trained.teacher.eval()
    torch.testing.assert_close(found, trained.teacher.backbone(images))
    torch.testing.assert_close(found, trained.teacher.tokens(images, None)[:, 0])
