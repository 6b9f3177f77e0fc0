"""Costs of a backbone: multiply-adds against published ones and a count by hand, timing that is bounded and told."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from umbel.backbones import Backbone, load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.evaluation.efficiency import efficiency, weights_on_disk, words
from umbel.evaluation.energy import Counter
from umbel.evaluation.latency import time_batches
from umbel.evaluation.multiply_adds import multiply_adds

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=2, heads=2, patch=8, registers=3)
NONE = Counter(read=None, reason="nobody counts here")


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    torch.manual_seed(3)
    card = ModelCard(
        architecture=TINY.name,
        arguments=model_arguments(TINY, 16),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        num_features=16,
    )
    write_timm_folder(tmp_path / "backbone", build(TINY, 16).state_dict(), card)
    return load(tmp_path / "backbone")


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("convnext_atto", 0.55),
        ("convnext_nano", 2.44),
        ("convnext_tiny", 4.45),
        ("vit_tiny_patch16_224", 1.25),
        ("vit_small_patch16_224", 4.60),
        ("vit_base_patch16_224", 17.56),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, giga: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0).eval()
    assert multiply_adds(model, 224) / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize("side", [16, 24])
def test_multiply_adds_of_a_vit_by_hand(side: int) -> None:
    model = build(TINY, side).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    patches, c = (side // 8) ** 2, 16
    n = patches + 1 + 3
    # Queries, keys, values and projection; the MLP is 4 times as wide; scores and their sums.
    block = n * c * 3 * c + n * c * c + 2 * n * c * 4 * c + 2 * n * n * c
    for fused in (True, False):
        for layer in model.blocks:
            layer.attn.fused_attn = fused
        assert multiply_adds(model, side) == patches * c * 3 * 64 + 2 * block
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_costs_of_a_backbone(backbone: Backbone) -> None:
    threads = torch.get_num_threads()
    seen: list[int] = []
    backbone.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))  # type: ignore[no-untyped-call]
    found = efficiency(backbone, device="cpu", batches=(1, 3), seconds=0.05, threads=threads + 1, counter=NONE)
    assert {*seen} >= {threads + 1}
    assert found.threads == threads + 1
    assert torch.get_num_threads() == threads
    assert found.parameters == sum(weight.numel() for weight in backbone.model.state_dict().values())
    assert found.multiply_adds == multiply_adds(backbone.model, 16)
    assert (found.image_size, found.device, found.precision) == (16, "cpu", "float32")
    assert [one.batch for one in found.latency] == [1, 3]
    file = Path(backbone.source.removeprefix("folder ")) / "model.safetensors"
    assert (found.bytes, found.bytes_of) == (file.stat().st_size, "model.safetensors")
    assert (found.energy_of, found.energy_reason) == (None, "nobody counts here")
    assert all(one.joules_per_1000_images is None for one in found.latency)
    assert all((one.peak_memory_bytes or 1 << 30) > 1 << 25 for one in found.latency)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["latency"][1]["batch"] == 3
    told = "\n".join(words(found))
    assert f"{found.parameters / 1e6:.2f} M parameters" in told
    assert "(FLOPs: twice as many)" in told
    assert f"cpu, {threads + 1} thread(s), float32" in told
    assert told.endswith("energy: nobody counts here.")


def test_energy_is_that_of_the_timed_images(backbone: Backbone) -> None:
    readings = itertools.count(0, 40)
    counter = Counter(read=lambda: (float(next(readings)), 5.0), ranges=(1e9, 1e9), source="a meter")
    # 40 J between the readings before and after, however many batches of 4 there were.
    found = efficiency(backbone, device="cpu", batches=(4,), seconds=0, counter=counter)
    assert found.latency[0].runs == 3
    assert found.latency[0].joules_per_1000_images == pytest.approx(1000 * 40 / 12)
    assert (found.energy_of, found.energy_reason) == ("a meter", None)


def test_a_counter_that_stands_still_is_no_energy_of_0(backbone: Backbone) -> None:
    counter = Counter(read=lambda: (3.0,), ranges=(1e9,), source="a meter")
    found = efficiency(backbone, device="cpu", batches=(1,), seconds=0, counter=counter)
    assert found.latency[0].joules_per_1000_images is None
    assert found.energy_reason == "the counter did not move while the batches ran"


class Clock:
    """Time that passes only in `work`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now

    def work(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.calls += 1
        self.now += 1.0 if self.calls == 1 else 0.25 if self.calls % 10 else 0.75
        return images


@pytest.mark.parametrize(("seconds", "runs"), [(1.5, 6), (0.1, 3), (7.5, 26)])
def test_the_time_of_batches_is_bounded_and_the_first_batch_is_none_of_them(
    seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("umbel.evaluation.latency.time", clock)
    found = time_batches(clock.work, torch.zeros(2, 3, 8, 8), device="cpu", seconds=seconds, counter=NONE)
    warm = max(1, clock.calls - runs)
    took = [0.25 if number % 10 else 0.75 for number in range(warm + 1, warm + runs + 1)]
    assert found.runs == runs
    assert clock.calls == runs + (3 if seconds == 7.5 else 1)
    assert found.p50_ms == 250
    assert found.images_per_second == pytest.approx(2 * runs / sum(took))
    # 2 of 26 take longer, and the percentile lies between; of fewer than 20 there is none.
    assert found.p95_ms == (625 if runs == 26 else None)


def test_weights_without_a_file_here_are_weighed_as_the_file_they_would_be(backbone: Backbone) -> None:
    elsewhere = dataclasses.replace(backbone, source="hf-hub:somewhere/else")
    size, weighed = weights_on_disk(elsewhere)
    assert weighed == "the weights as model.safetensors"
    # The file's own head tells a format besides.
    assert abs(size - weights_on_disk(backbone)[0]) <= 64
