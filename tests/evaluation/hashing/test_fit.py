"""Training a coder: it learns what views share, repeats itself by the seed, and says what it cannot do."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.evaluation.hashing import CrovcaConfig, FitLog, fit_crovca
from umbel.evaluation.hashing.fit import draw_views
from umbel.run import TrainingError, UserError


def clustered(count: int = 512, views: int = 4, width: int = 16, clusters: int = 8) -> tuple[Tensor, np.ndarray]:
    """Views of `count` items that share their cluster's center and little else."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % clusters
    centers = 3 * torch.randn((clusters, width), generator=generator)
    return centers[label] + torch.randn((views, count, width), generator=generator), label.numpy()


def test_codes_tell_clusters_apart() -> None:
    views, label = clustered()
    log = FitLog()
    coder = fit_crovca(views, bits=16, config=CrovcaConfig(least_steps=0, batch=64, epochs=20), log=log)
    assert len(log.total) == 20 * (512 // 64)
    codes = coder.encode(views[0].numpy())
    differing = (codes[:, None] != codes[None]).mean(-1)
    same = label[:, None] == label[None]
    assert differing[same].mean() < 0.2 < 0.5 < differing[~same].mean()
    assert not coder.training


def test_the_seed_decides() -> None:
    views, _ = clustered(128)
    state = torch.get_rng_state()
    first, again, other = (
        fit_crovca(views, bits=8, seed=seed, config=CrovcaConfig(least_steps=0, batch=32)).tensors()
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["layers.0.weight"], other["layers.0.weight"])


def test_schedule_and_optimizer_are_those_specified(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    rates = []

    class Spy(torch.optim.AdamW):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)  # type: ignore[arg-type]
            made.append(settings)

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    fit_crovca(clustered(600)[0], bits=8, config=CrovcaConfig(least_steps=0))
    assert made == [{"lr": 1e-3, "weight_decay": 1e-2}]
    # 600 photographs are 2 batches of 256 an epoch, the remainder dropped; cosine per step.
    expected = [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_drawn_views_are_different_ones_of_the_same_photographs() -> None:
    views = torch.arange(5 * 7).view(5, 7, 1).float()
    rows = torch.tensor([6, 0, 3])
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(100):
        drawn = draw_views(views, rows, 3, generator)[..., 0].long()
        assert drawn.shape == (3, 3)
        assert ((drawn % 7) == rows).all()
        assert all(len(set(column)) == 3 for column in drawn.T.tolist())
        seen |= set((drawn // 7).flatten().tolist())
    assert seen == set(range(5))


def test_a_batch_larger_than_the_set_is_lowered_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    log = FitLog()
    fit_crovca(clustered(40)[0], bits=8, log=log, config=CrovcaConfig(least_steps=0))
    assert "batch 40: there are fewer photographs than the 256 of a batch." in capsys.readouterr().out
    assert len(log.total) == 5


def test_few_photographs_are_passed_more_often(capsys: pytest.CaptureFixture[str]) -> None:
    log = FitLog()
    fit_crovca(clustered(90)[0], bits=8, log=log, config=CrovcaConfig(batch=40, least_steps=13))
    assert len(log.total) == 14  # two batches an epoch
    assert "7 epochs, 14 steps: 5 would be 10, fewer than crovca.least-steps." in capsys.readouterr().out
    assert CrovcaConfig().least_steps == 1000


@pytest.mark.parametrize(("shape", "words"), [((1, 40, 4), "2 views"), ((2, 1, 4), "at least 2 photographs")])
def test_too_little_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit_crovca(torch.randn(shape), bits=8)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    views = torch.randn(2, 40, 4)
    views[0, 3, 1] = math.nan
    with pytest.raises(TrainingError, match="not finite at step 0 of 5"):
        fit_crovca(views, bits=8, config=CrovcaConfig(least_steps=0))


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"batch": 1}, {"views": 1}, {"learning_rate": 0.0}, {"weight": -1.0}, {"least_steps": -1}],
)
def test_impossible_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"crovca.{next(iter(settings))} must"):
        CrovcaConfig(**settings)  # type: ignore[arg-type]


def test_the_seed_decides_on_the_order_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda weight, std: torch.nn.init.eye_(weight))
    views, _ = clustered(128)
    first, other = (
        fit_crovca(views, bits=8, seed=seed, config=CrovcaConfig(least_steps=0, batch=32)).tensors() for seed in (0, 1)
    )
    assert not np.array_equal(first["layers.0.weight"], other["layers.0.weight"])


def test_labels_bring_a_class_together_that_its_views_do_not_show() -> None:
    """Two clusterings of the same items; the labels are of the weaker one."""
    views, _ = clustered(width=16)
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 4, (views.shape[1],), generator=generator)
    views = torch.cat([views, 1.5 * torch.randn((4, 16), generator=generator)[label].expand(len(views), -1, -1)], 2)

    def apart(labels: Tensor | None) -> float:
        """How much more bits differ between classes than within one."""
        config = CrovcaConfig(least_steps=0, batch=64, epochs=20)
        codes = fit_crovca(views, bits=16, labels=labels, config=config).encode(views[0].numpy())
        differing = (codes[:, None] != codes[None]).mean(-1)
        same = (label[:, None] == label[None]).numpy()
        return float(differing[~same].mean() - differing[same].mean())

    assert apart(label) > 0.3 > 3 * apart(None)


def test_one_label_each_equals_a_table_of_them_and_some_may_have_none() -> None:
    views, label = clustered(128)
    numbers = torch.from_numpy(label)
    numbers[::3] = -1
    table = numbers[:, None] == torch.arange(8)
    config = CrovcaConfig(least_steps=0, batch=32)
    one, many, none = (
        fit_crovca(views, bits=8, labels=labels, config=config).tensors() for labels in (numbers, table, None)
    )
    assert all(np.array_equal(one[name], many[name]) for name in one)
    assert not np.array_equal(one["layers.0.weight"], none["layers.0.weight"])
    unlabeled = fit_crovca(views, bits=8, labels=torch.full((128,), -1), config=config).tensors()
    assert all(np.allclose(unlabeled[name], none[name], atol=1e-6) for name in none)


def test_labels_of_other_photographs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labels for 128 photographs"):
        fit_crovca(clustered(128)[0], bits=8, labels=torch.zeros(3, dtype=torch.int64))
