"""The classifier that fine-tuning starts from: the backbone, and a head on its standardized features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.backbones import Backbone
from umbel.evaluation.embed import features_by
from umbel.evaluation.extract import extract
from umbel.run import UserError
from umbel.ssl.classifier import Classifier
from umbel.ssl.finetune_config import FinetuneConfig
from umbel.ssl.finetune_data import FinetuneData, take_rows

STATISTICS, BATCH = 1024, 128
"""Photographs that the head's statistics are of, and those of a batch."""


def first_classifier(
    config: FinetuneConfig,
    backbone: Backbone,
    data: FinetuneData,
    prepare: Callable[[Any], Tensor],
    device: torch.device,
    workers: int,
    *,
    begun: Path | None,
) -> Classifier:
    """The classifier that training starts from, on the device.

    Args:
        begun: a checkpoint that all its numbers will be taken from: then nothing is looked at.

    Raises:
        UserError: a backbone that gives no row of features, or cannot take images of this size.
    """
    frozen = config.head == "linear"
    if begun is not None:
        nothing = torch.ones(backbone.dim)
        return Classifier(backbone.model, data.classes, mean=nothing, std=nothing, frozen=frozen).to(device)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(data.train.shards))[:STATISTICS])
    model = backbone.model.to(device).eval()
    try:
        features = extract(
            take_rows(data.train.shards, chosen),
            prepare,
            features_by(model, config.device)[0],
            provenance={},
            batch=BATCH,
            workers=workers,
            splits=None,
            title=None,
        ).features
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"backbone {backbone.source} gives no features of images of {config.views.size} pixels ({reason})."
        ) from error
    torch.manual_seed(config.seed)
    return Classifier(
        model,
        data.classes,
        mean=torch.from_numpy(features.mean(0)),
        std=torch.from_numpy(features.std(0)),
        frozen=frozen,
    ).to(device)
