"""Training a HashCoder on embeddings of augmented views; the encoder that gave them is frozen.

Source: Image Hashing via Cross-View Code Alignment in the Age of Foundation Models (arXiv 2510.27584).
"""

from __future__ import annotations

import torch
from torch import Tensor

from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.prototypes import Prototypes
from umbel.evaluation.hashing.train_coders import CrovcaConfig, FitLog, train_coders
from umbel.run import UserError


def fit_crovca(
    views: Tensor,
    *,
    bits: int,
    labels: Tensor | None = None,
    seed: int = 0,
    config: CrovcaConfig | None = None,
    log: FitLog | None = None,
) -> HashCoder:
    """Train a HashCoder; runs on the device of `views`, bit for bit the same on a CPU for the same seed.

    Args:
        views: (R, N, C) embeddings of R views of N photographs; a step draws V different ones of each photograph.
        bits: K.
        labels: supervised: (N,) int64 classes, negative without; or (N, L) bool, several each. Photographs without a
            class are trained on as without labels.
        seed: of weights, order and views.
        log: is filled with the losses of every step.

    Returns:
        The coder in eval mode, on the device of `views`.

    Raises:
        UserError: too few views or photographs.
        ValueError: labels that do not fit.
        TrainingError: a loss that is not finite.
    """
    config = config or CrovcaConfig()
    rounds, count, width = views.shape
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} photographs")
    if rounds < config.views:
        raise UserError(f"{config.views} views of every photograph are needed, and there are {rounds}.")
    classes = 0 if labels is None else labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    prototypes = Prototypes(classes, bits, memory=config.memory, device=views.device)

    def draw(rows: Tensor, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        return [(0, view) for view in draw_views(views, rows, config.views, generator)]

    def targets(logits: Tensor, rows: Tensor) -> Tensor | None:
        if labels is None:
            return None
        return prototypes.targets(logits, members(labels[rows], classes).to(logits.device))

    coders = train_coders(
        [width], count, draw, bits=bits, seed=seed, config=config, device=views.device, targets=targets, log=log
    )
    return coders[0]


def members(labels: Tensor, classes: int) -> Tensor:
    """(B,) int64 classes, negative without, or (B, L) bool -> (B, L) bool."""
    return labels if labels.ndim == 2 else labels[:, None] == torch.arange(classes, device=labels.device)


def draw_views(views: Tensor, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different views of each of some photographs: (R, N, C) and (B,) -> (count, B, C)."""
    chosen = torch.rand((len(views), len(rows)), generator=generator).argsort(0)[:count]  # (count, B)
    return views[chosen.to(views.device), rows.to(views.device)]
