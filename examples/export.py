"""Export a run's backbone and use it with timm alone.

python examples/export.py RUN FOLDER PHOTOGRAPH
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from PIL import Image

from umbel.backbones.export import ExportConfig, run


def main(backbone: str, folder: str, photograph: str) -> None:
    """Export, load without Umbel, and print the feature of one photograph."""
    run(ExportConfig(backbone=Path(backbone), out=Path(folder)))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode(), Image.open(photograph) as image:
        feature = model(transform(image.convert("RGB"))[None])[0]
    print(f"{photograph}: a feature of {len(feature)} numbers, length {feature.norm():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
