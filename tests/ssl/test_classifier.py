"""The classifier's loss against a plain formula, its head folded, a frozen backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from umbel.data.batch import Batch
from umbel.evaluation.exporting.classifier_head import head_of
from umbel.run import UserError
from umbel.ssl.classifier import Classifier, weighted_cross_entropy
from umbel.ssl.learner import Labels
from umbel.ssl.targets import Targets


def tiny(frozen: bool = False) -> Classifier:
    torch.manual_seed(0)
    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1, "num_classes": 0}
    backbone = timm.create_model("vit_tiny_patch16_224", **settings)
    made = Classifier(backbone, ["a", "b", "c"], mean=torch.randn(8), std=torch.rand(8) + 0.5, frozen=frozen)
    torch.nn.init.normal_(made.head.weight), torch.nn.init.normal_(made.head.bias)
    return made


def batch_of(samples: list[int], bad: list[int]) -> Batch:
    rows = np.array(samples)
    none = torch.empty(0)
    told = {"cursor": rows, "epoch": rows, "position": rows, "label": rows}
    return Batch(canvas=none, size=none, sample=rows, bad=[(sample, "why") for sample in bad], **told)


def test_the_loss_is_a_weighted_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1)
    weight = torch.rand(6, generator=generator, dtype=torch.float64)
    expected = 0.0
    for row in range(6):
        powers = [float(x) for x in logits[row].exp()]
        for k in range(4):
            expected -= float(weight[row] * target[row, k]) * np.log(powers[k] / sum(powers)) / 6
    loss = weighted_cross_entropy(logits, target, weight)
    assert float(loss) == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, weight[:, None] * (logits.softmax(1) - target).detach() / 6)


def test_a_channel_that_does_not_vary_at_first_stays_small() -> None:
    std = torch.tensor([2.0, 0.5, 0.0, 1e-8, 0.1, 3.4, 1.0, 1.0])
    made = Classifier(tiny().backbone, ["a", "b"], mean=torch.zeros(8), std=std, frozen=False)
    torch.testing.assert_close(made.std, std.clamp(min=0.01 * float(std.mean())))
    assert made.std[2] > 0.009
    nothing = Classifier(tiny().backbone, ["a", "b"], mean=torch.zeros(8), std=torch.zeros(8), frozen=False)
    assert nothing.std.isfinite().all()
    assert (nothing.std > 0).all()


def test_targets_are_smoothed_soft_and_weighted() -> None:
    soft = {2: (np.array([0, 2]), np.array([0.25, 0.75], dtype=np.float32))}
    weight = np.array([0.5, 2.0, 1.0], dtype=np.float32)
    targets = Targets(label=np.array([1, 0, 2]), classes=3, weight=weight, smoothing=0.3, soft=soft)
    found = targets.of(batch_of([2, 0, 1, 2], bad=[1]))
    assert found.target is not None
    rows = [[0.275, 0.1, 0.625], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.275, 0.1, 0.625]]
    torch.testing.assert_close(found.target, torch.tensor(rows))
    assert found.weight.tolist() == [1.0, 0.5, 0.0, 1.0]


def test_what_is_exported_is_one_layer_of_the_feature(tmp_path: Path) -> None:
    made, images = tiny().eval(), torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        features, logits = made.backbone(images).numpy(), made.logits(images).numpy()
    made.write_beside(tmp_path, {"temperature": 0.5, "threshold": 0.2, "step": 4})
    head = head_of(tmp_path / "backbone")
    assert head is not None
    np.testing.assert_allclose(features @ head.weight.T + head.bias, logits, rtol=1e-4, atol=1e-5)
    assert (head.classes, head.temperature, head.threshold) == (("a", "b", "c"), 0.5, 0.2)
    assert head_of(tmp_path / "elsewhere" / "backbone") is None
    (tmp_path / "head" / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"the head .* is damaged"):
        head_of(tmp_path / "backbone")


def test_a_frozen_backbone_stays_as_it_is() -> None:
    made = tiny(frozen=True).train()
    assert made.training
    assert not made.backbone.training
    made(torch.randn(2, 3, 16, 16), Labels(target=torch.eye(3)[:2], weight=torch.ones(2)))[0].backward()
    assert made.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in made.backbone.parameters())
    with pytest.raises(ValueError, match="needs labels"):
        made(torch.randn(2, 3, 16, 16), Labels(target=None, weight=torch.ones(2)))
