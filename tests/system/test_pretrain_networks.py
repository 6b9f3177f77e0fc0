"""`umbel pretrain` with other networks than a plain ViT, in processes of its own, to an export that timm loads."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from umbel.backbones import load

RECIPES = {
    "ConvNeXt": """
backbone: {name: convnext_atto}
views: {global_size: 64, local_size: 32, local_views: 1}
optim: {warmup_epochs: 0.5, drop_path: 0.2}
""",
    "DINOv3": """
backbone: {name: vit_small_patch16_dinov3, width: 32, depth: 2, heads: 2, patch: 8, registers: 1}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 0.5, drop_path: 0.2}
""",
}
ALIKE = """
format: 1
command: pretrain
head: {hidden: 32, width: 16}
masks: {views: 0.0}
loss: {patch_weight: 0.0}
reader: {canvas: 64}
train: {batch: 4, epochs: 2.0, precision: float32, log_every: 1}
"""


@pytest.mark.parametrize(("name", "ranks"), [("ConvNeXt", 2), ("DINOv3", 1)])
def test_the_image_loss_alone_trains_it(
    name: str, ranks: int, photographs: Callable[..., Path], tmp_path: Path
) -> None:
    """SimDINO: nothing is masked, so the mask token has no gradient for the ranks to wait for."""
    data = photographs([f"{number}.jpg" for number in range(16)])
    (tmp_path / "recipe.yaml").write_text(ALIKE + RECIPES[name])
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [*launcher, "-m", "umbel", "pretrain", data, "--out", tmp_path / "run"]
    command += ["--recipe", tmp_path / "recipe.yaml", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 8 // ranks
    assert all(row["patch_loss"] == 0 and np.isfinite(row["loss"]) and row["bad_steps"] == 0 for row in rows)
    assert all(row["grad_norm_backbone"] > 0 for row in rows)
    backbone = load(tmp_path / "run")
    folder = backbone.source.removeprefix("folder ")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x)
        torch.testing.assert_close(features, backbone.model(x), rtol=0, atol=0)
    assert features.shape == (2, backbone.dim)
    state = torch.load(Path(folder).parent / "training.pt", map_location="cpu", weights_only=True)
    for parameter, value in state["teacher"].items():
        moved = not torch.equal(value, state["student"][parameter])
        assert moved or parameter == "mask_token", parameter


def test_a_convnext_with_masks_is_refused_before_anything_is_written(
    photographs: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    data = photographs([f"{number}.jpg" for number in range(4)])
    sentence = refused(
        "pretrain", data, "--out", tmp_path / "run", "--device", "cpu", "--recipe", "vits16",
        "--backbone.name", "convnext_atto",
    )  # fmt: skip
    assert "--masks.views 0" in sentence
    assert "--loss.patch-weight 0" in sentence
    assert not (tmp_path / "run").exists()
