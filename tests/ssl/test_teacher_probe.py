"""Probing the teacher: the same accuracy as `umbel probe`, nothing of training changed, and no end to it on failure."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.embed import embed
from umbel.evaluation.probe_rows import probe as probe_rows
from umbel.ssl.probe_set import ProbeConfig, ProbeSet, open_probe
from umbel.ssl.teacher_probe import probe_teacher

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
CARD = ModelCard(
    architecture=TINY.name,
    arguments=model_arguments(TINY, 32),
    image_size=32,
    mean=(0.4, 0.5, 0.3),
    std=(0.2, 0.25, 0.3),
    num_features=32,
)


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plants") / "shards"
    make_synthetic(MakeSyntheticConfig(out=out, train=120, test=48, size=48, workers=1))
    return out


@pytest.fixture
def probe(plants: Path, tmp_path: Path) -> ProbeSet:
    found = open_probe(ProbeConfig(data=str(plants), shots=2, draws=6), tmp_path / "shards", CARD)
    assert found is not None
    return found


def make_backbone() -> Any:
    torch.manual_seed(0)
    return build(TINY, 32).eval().requires_grad_(False)


def measured(probe: ProbeSet, backbone: nn.Module | None = None, **settings: Any) -> dict[str, Any] | None:
    backbone = make_backbone() if backbone is None else backbone
    return probe_teacher(probe, backbone, **({"device": "cpu", "workers": 0} | settings))


@pytest.mark.parametrize("split", ["train and test", "test alone"])
def test_it_reaches_what_the_command_reaches(split: str, plants: Path, tmp_path: Path) -> None:
    backbone = make_backbone()
    write_timm_folder(tmp_path / "backbone", backbone.state_dict(), CARD)
    data = str(plants) if split == "train and test" else str(plants / "test-000000.tar")
    opened = open_probe(ProbeConfig(data=data, shots=1, draws=6), tmp_path / "shards", CARD)
    assert opened is not None
    found = measured(opened, backbone)
    embeddings = embed(load(tmp_path / "backbone"), open_shards(data), device="cpu")
    row = probe_rows({"ours": embeddings}, shots=1, draws=6, seed=0, k=3)[0]
    assert found is not None
    assert found["accuracy"] == row.mean
    assert found["interval"] == row.interval
    assert 0 < row.mean < 1
    assert (found["shots"], found["classes"], found["photographs"]) == (1, 24, len(embeddings))
    assert found["seconds"] > 0
    assert found["data"] == opened.shards.fingerprint()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_of_training_is_changed(workers: int, probe: ProbeSet) -> None:
    backbone = make_backbone()
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    def state() -> list[Any]:
        flags = [module.fused_attn for module in backbone.modules() if hasattr(module, "fused_attn")]
        modes = [module.training for module in backbone.modules()]
        numpy_state: Any = np.random.get_state()  # noqa: NPY002
        generators = [torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist()]
        ways = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
        return [*generators, *ways, flags, modes, torch.get_num_threads()]

    before = state()
    assert measured(probe, backbone, workers=workers) is not None
    assert state() == before
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
        assert not tensor.is_inference(), name
    # The average of the student still goes into it.
    torch._foreach_lerp_(list(backbone.parameters()), [torch.ones_like(p) for p in backbone.parameters()], 0.5)


def test_training_in_bf16_is_probed_in_float32(probe: ProbeSet) -> None:
    plain = measured(probe)
    kinds: set[torch.dtype] = set()
    backbone = make_backbone()
    backbone.blocks[0].mlp.fc1.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    found = measured(probe, backbone)
    assert kinds == {torch.float32}
    assert found is not None
    assert plain is not None
    assert found["accuracy"] == plain["accuracy"]


def test_compiled_blocks_are_not_compiled_again(probe: ProbeSet) -> None:
    """Else training would meet code that was compiled for any batch size."""
    compiled: list[int] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        compiled.append(1)
        return graph.forward

    torch._dynamo.reset()
    backbone = make_backbone()
    for block in backbone.blocks:
        block.compile(backend=count)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = backbone(images)
        done = len(compiled)
        assert done > 0
        assert measured(probe, backbone) is not None
        assert len(compiled) == done
        assert torch.equal(backbone(images), before)
        assert len(compiled) == done
        # Without care it happens.
        backbone(torch.randn(9, 3, 32, 32))
        assert len(compiled) > done
    torch._dynamo.reset()


def test_a_damaged_photograph_is_left_out(plants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in plants.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    content = bytearray((damaged / "train-000000.tar").read_bytes())
    start = content.find(b"\xff\xd8\xff")
    content[start : start + 2] = b"no"
    (damaged / "train-000000.tar").write_bytes(content)
    opened = open_probe(ProbeConfig(data=str(damaged), shots=2, draws=2), tmp_path / "shards", CARD)
    assert opened is not None
    found = measured(opened)
    assert found is not None
    assert found["photographs"] == 167
    assert "167 photographs (1 damaged ones left out)" in capsys.readouterr().out


class Broken(nn.Module):
    """A backbone that does what it is told."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)


def no_memory(_: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (no_memory, "CUDA out of memory. Tried to allocate"),
        (lambda images: images.mean((2, 3)) * torch.nan, "the features are not finite"),
    ],
)
def test_a_failure_is_told_and_training_goes_on(
    answer: Callable[[Tensor], Tensor], told: str, probe: ProbeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.get_rng_state()
    assert measured(probe, Broken(answer)) is None
    assert f"the probe failed, and training goes on: {told}" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), generator)


def test_shards_that_are_gone_end_no_training(
    plants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.data.unreadable.time.sleep", lambda _: None)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in plants.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    opened = open_probe(ProbeConfig(data=str(copy), shots=2, draws=2), tmp_path / "shards", CARD)
    assert opened is not None
    (copy / "train-000000.tar").unlink()
    assert measured(opened) is None
    assert "train-000000.tar" in capsys.readouterr().out


def die(_: Any) -> Tensor:
    os._exit(9)


def test_a_decoding_process_that_dies_ends_no_training(
    plants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = open_shards(str(plants))
    opened = ProbeSet(config=ProbeConfig(data="d"), shards=shards, classes=24, prepare=die)
    assert measured(opened, workers=1) is None
    assert "the probe failed, and training goes on: DataLoader worker" in capsys.readouterr().out


def test_it_stops_when_training_is_to_stop(probe: ProbeSet, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 1

    capsys.readouterr()
    assert measured(probe, stop=stop) is None
    assert len(asked) == 2  # two batches are there: 168 photographs
    assert capsys.readouterr().out == ""
