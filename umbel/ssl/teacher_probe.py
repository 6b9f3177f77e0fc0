"""Few-shot accuracy of the teacher while it is trained: the curve that tells what the loss does not.

Nearest centroid as `umbel probe` has it (arXiv 2604.27538), on features as `umbel embed` makes them. Training is the
same to the last bit with and without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umbel.evaluation.embed import features_by
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import extract
from umbel.evaluation.fewshot import interval, nearest_centroid
from umbel.evaluation.probe_rows import divide
from umbel.run import UserError, say
from umbel.ssl.probe_set import SEED, ProbeConfig, ProbeSet

BATCH = 128


class _StopAsked(Exception):
    """Training is to stop, and the probe with it."""


def probe_teacher(
    probe: ProbeSet, backbone: nn.Module, *, device: str, workers: int, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any] | None:
    """Embed the photographs by the teacher's backbone and measure; None where that fails, which is said, or is stopped.

    No generator, mode, flag or compiled code that training uses is another one afterwards. Damaged photographs are
    left out.

    Args:
        backbone: (B, 3, H, W) -> (B, C), in eval mode on the device.
        workers: processes that decode; they live as long as the probe.
        stop: asked at every batch, whether to give up.

    Returns:
        shots, accuracy (mean over draws), interval (half the width of its 95 % interval), classes, photographs,
        seconds, data (the fingerprint of what is probed: other photographs make another curve).
    """
    started = time.perf_counter()
    forward, _ = features_by(backbone, device)

    def features(images: Tensor) -> Tensor:
        if stop():
            raise _StopAsked
        return forward(images)

    reading: dict[str, Any] = {"batch": BATCH, "workers": workers, "splits": None, "pin": device == "cuda"}
    try:
        with _undisturbed(device):
            made = extract(probe.shards, probe.prepare, features, provenance={}, title=None, **reading)
            accuracies = _few_shot(made, probe.config, device)
    except _StopAsked:
        return None
    except (UserError, ValueError, RuntimeError, OSError) as error:
        # Among them a decoding process that was killed, and too little memory on the GPU: training has what it needs.
        say(f"the probe failed, and training goes on: {' '.join(str(error).split())[:300]}")
        return None
    mean, half = interval(accuracies)
    seconds, bad = time.perf_counter() - started, len(made.provenance["left_out"])
    shots, left_out = f"{probe.config.shots}-shot accuracy", f" ({bad} damaged ones left out)" if bad else ""
    say(f"probe: {shots} {100 * mean:.1f} ± {100 * half:.1f} %, {len(made)} photographs{left_out}, {seconds:.1f} s.")
    return {"shots": probe.config.shots, "accuracy": mean, "interval": half, "classes": probe.classes} | {
        "photographs": len(made),
        "seconds": round(seconds, 3),
        "data": probe.fingerprint,
    }


def _few_shot(made: Embeddings, config: ProbeConfig, device: str) -> np.ndarray:
    """Accuracy of each draw."""
    support, queries = divide(made)
    asked: dict[str, Any] = {}
    if queries is not None:
        asked = {"queries": torch.from_numpy(queries.features).to(device), "query_labels": queries.label}
    features = torch.from_numpy(support.features).to(device)
    return nearest_centroid(features, support.label, shots=config.shots, draws=config.draws, seed=SEED, **asked)


@contextlib.contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """Give torch's generators back as they were, and run compiled blocks as they were written.

    A DataLoader draws from the generator. A compiled block that sees another batch size is compiled anew for any
    size, and training would run that code from then on.
    """
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
        yield
