"""Bits of classes against a loop, with and without a memory, several labels and none."""

import pytest
import torch
from torch import Tensor

from umbel.evaluation.hashing.loss import cross_view_alignment, crovca_loss
from umbel.evaluation.hashing.prototypes import Prototypes

V, B, K, L = 3, 6, 5, 4
LABELS = torch.tensor([
    [1, 0, 0, 0],
    [1, 0, 1, 0],
    [0, 1, 0, 0],
    [0, 0, 0, 0],
    [0, 1, 1, 0],
    [1, 0, 0, 0],
]).bool()  # fmt: skip


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn((count, V, B, K), generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_targets_are_the_signs_of_the_mean_prototype(memory: float) -> None:
    prototypes = Prototypes(L, K, memory=memory, device=torch.device("cpu"))
    kept: dict[int, list[float]] = {}
    for logits in batches(3):
        found = prototypes.targets(logits, LABELS)
        for c in range(L):
            rows = [b for b in range(B) if LABELS[b, c]]
            if rows:
                mean = [sum(float(logits[v, b, k]) for v in range(V) for b in rows) / (V * len(rows)) for k in range(K)]
                before = kept.get(c)
                kept[c] = [memory * old + (1 - memory) * new for old, new in zip(before or mean, mean, strict=True)]
        for b in range(B):
            own = [kept[c] for c in range(L) if LABELS[b, c]]
            if not own:
                assert found[b].isnan().all()
                continue
            expected = [float(sum(prototype[k] for prototype in own) > 0) for k in range(K)]
            assert found[b].tolist() == expected


def test_every_view_predicts_the_known_bits_and_others_each_other() -> None:
    (logits,) = batches(1)
    targets = Prototypes(L, K, memory=0.0, device=torch.device("cpu")).targets(logits, LABELS)
    terms = torch.nn.functional.binary_cross_entropy_with_logits
    known = torch.stack([terms(logits[v, b], targets[b]) for v in range(V) for b in range(B) if b != 3])
    row = logits[:, 3:4]
    expected = (known.sum() + V * cross_view_alignment(row)) / (V * B)
    torch.testing.assert_close(crovca_loss(list(logits), targets=targets)[1], expected)


def test_no_gradient_flows_into_the_targets() -> None:
    (logits,) = batches(1)
    logits.requires_grad_()
    targets = Prototypes(L, K, memory=0.5, device=torch.device("cpu")).targets(logits, LABELS)
    assert not targets.requires_grad
    crovca_loss(list(logits), targets=targets)[1].backward()
    expected = (logits.detach().sigmoid() - targets) / logits.numel()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, targets[:, 0].isfinite()], expected[:, targets[:, 0].isfinite()])


@pytest.mark.parametrize("memory", [-0.1, 1.0])
def test_an_impossible_memory_is_refused(memory: float) -> None:
    with pytest.raises(ValueError, match="memory must be at least 0 and less than 1"):
        Prototypes(L, K, memory=memory, device=torch.device("cpu"))
