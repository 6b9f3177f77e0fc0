"""What a backbone costs: parameters, multiply-adds, latency, throughput, memory, bytes on disk, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from umbel.backbones import Backbone
from umbel.evaluation.embed import features_by
from umbel.evaluation.energy import Counter, energy_counter
from umbel.evaluation.latency import Latency, time_batches
from umbel.evaluation.multiply_adds import multiply_adds

BATCHES = (1, 32)
SECONDS = 5.0
"""Time for each size of batch."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Costs of a backbone on one device, at its own input size, without a classifier."""

    source: str
    image_size: int
    """Side of the input in pixels."""
    parameters: int
    multiply_adds: int
    """Of one image; FLOPs are twice as many."""
    bytes: int
    """Of the weights on disk."""
    bytes_of: str
    """What was weighed."""
    device: str
    threads: int
    """Of the CPU, inside an operation."""
    precision: str
    latency: tuple[Latency, ...]
    energy_of: str | None
    """What the energy was counted by; None: it could not be read."""
    energy_reason: str | None
    """Why not."""


def efficiency(
    backbone: Backbone,
    *,
    device: str,
    batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
    threads: int | None = None,
    counter: Counter | None = None,
) -> Efficiency:
    """Measure a backbone as `umbel embed` runs it: float32 on a CPU, bf16 autocast on a GPU that computes in it.

    Args:
        device: "cpu" or "cuda".
        seconds: time for each size of batch, see `time_batches`.
        threads: of a CPU; torch's own number without.
        counter: of energy; the device's without.
    """
    side, before = backbone.card.image_size, torch.get_num_threads()
    counted = counter or energy_counter(device)
    size, weighed = weights_on_disk(backbone)
    torch.set_num_threads(threads or before)
    try:
        forward, precision = features_by(backbone.model.to(device).eval(), device)
        # Noise: how long a product takes does not depend on what is multiplied, but zeros might.
        generator = torch.Generator().manual_seed(0)
        latency = tuple(
            time_batches(
                forward,
                torch.randn(batch, 3, side, side, generator=generator).to(device),
                device=device,
                seconds=seconds,
                counter=counted,
            )
            for batch in batches
        )
    finally:
        torch.set_num_threads(before)
    still = counted.read is not None and all(one.joules_per_1000_images is None for one in latency)
    return Efficiency(
        source=backbone.source,
        image_size=side,
        parameters=sum(parameter.numel() for parameter in backbone.model.parameters()),
        multiply_adds=multiply_adds(backbone.model, side),
        bytes=size,
        bytes_of=weighed,
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        threads=threads or before,
        precision=precision,
        latency=latency,
        energy_of=counted.source or None,
        energy_reason="the counter did not move while the batches ran" if still else counted.reason or None,
    )


def weights_on_disk(backbone: Backbone) -> tuple[int, str]:
    """Bytes of the weights' file, and which one; of the file that they would be, where there is none here."""
    for file in (
        Path(backbone.source.removeprefix("folder ")) / "model.safetensors",
        Path(backbone.source.removeprefix("file ")),
    ):
        if file.is_file():
            return file.stat().st_size, file.name
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.model.state_dict().items()}
    return len(save(weights)), "the weights as model.safetensors"


def words(found: Efficiency) -> list[str]:
    """The costs in a few lines, for people."""
    lines = [
        f"{found.parameters / 1e6:.2f} M parameters, {found.multiply_adds / 1e9:.3g} GMAC at {found.image_size} px "
        f"(FLOPs: twice as many), {found.bytes / 1e6:.1f} MB ({found.bytes_of}).",
        f"{found.device}, {found.threads} thread(s), {found.precision}:",
    ]
    for one in found.latency:
        p95 = f", p95 {one.p95_ms:.4g} ms" if one.p95_ms is not None else f" ({one.runs} runs: too few for a p95)"
        memory = f", peak {one.peak_memory_bytes / 2**20:.0f} MiB" if one.peak_memory_bytes is not None else ""
        energy = one.joules_per_1000_images
        joules = f", {energy:.4g} J for 1,000 images" if energy is not None else ""
        lines.append(
            f"  batch {one.batch}: p50 {one.p50_ms:.4g} ms{p95}, {one.images_per_second:.4g} images/s{memory}{joules}"
        )
    lines.append(f"energy: {found.energy_reason or found.energy_of}.")
    return lines
