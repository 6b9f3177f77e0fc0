"""Means and deviations of the photographs that backbones are trained on: red, green, blue, of images in [0, 1]."""

from __future__ import annotations

from typing import Literal

StatisticsName = Literal["inat-plantae", "imagenet"]

# Of the plants of iNaturalist 2021 (arXiv 2604.27538).
INAT_PLANTAE_MEAN = (0.4293, 0.4597, 0.3280)
INAT_PLANTAE_STD = (0.2216, 0.2151, 0.2211)
# Of ImageNet-1k, as DINOv2 and most other backbones are trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

STATISTICS: dict[StatisticsName, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "inat-plantae": (INAT_PLANTAE_MEAN, INAT_PLANTAE_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
}
