"""Operations of a step: the design's numbers, a count by hand, what drop path saves and checkpointing adds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from umbel.augment.views import ViewsConfig
from umbel.backbones.build import BackboneConfig, build
from umbel.ssl.head import HeadConfig
from umbel.ssl.masking import MaskConfig
from umbel.ssl.network import Network
from umbel.ssl.operations import step_operations
from umbel.ssl.pretrain_config import PretrainConfig, TrainConfig

MakeNetwork = Callable[..., Network]


def configuration(name: str = "vit_small_patch16_224", registers: int = 0) -> PretrainConfig:
    return PretrainConfig(data="data", out=Path("run"), backbone=BackboneConfig(name=name, registers=registers))


def on_meta(config: PretrainConfig, drop_path: float = 0.0, **settings: bool) -> Network:
    with torch.device("meta"):
        return Network(build(config.backbone, config.views.global_size), config.head, drop_path, **settings)


@pytest.mark.parametrize(
    ("name", "giga"),
    [("vit_small_patch16_224", 125), ("vit_base_patch16_224", 476), ("vit_large_patch16_224", 1665)],
)
def test_the_designs_numbers(name: str, giga: int) -> None:
    config = configuration(name)
    assert round(step_operations(on_meta(config), config).nominal / 1e9) == giga


def test_four_registers_cost_five_percent() -> None:
    plain, registers = configuration(), configuration(registers=4)
    ratio = step_operations(on_meta(registers), registers).nominal / step_operations(on_meta(plain), plain).nominal
    assert ratio == pytest.approx(1.05, abs=0.006)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_drop_path_saves_most_of_its_rate(rate: float) -> None:
    config = configuration(registers=4)
    whole, dropped = step_operations(on_meta(config), config), step_operations(on_meta(config, rate), config)
    assert whole.executed == whole.nominal == dropped.nominal
    assert 1 - dropped.executed / dropped.nominal == pytest.approx(0.84 * rate, rel=0.03)


def by_hand(config: PretrainConfig, width: int, depth: int, patch: int, prefix: int, hidden: int, out: int) -> float:
    """Nominal operations of a plain ViT, matrix by matrix."""
    views = config.views

    def forward(side: int) -> float:
        patches = (side // patch) ** 2
        n = patches + prefix
        block = (
            2 * n * width * 3 * width + 2 * 2 * n * n * width + 2 * n * width * width + 2 * 2 * n * width * 4 * width
        )
        return 2 * patches * 3 * patch**2 * width + depth * block

    masked = 2 * config.masks.views * sum(config.masks.ratio) / 2 * (views.global_size // patch) ** 2
    head = 2 * (width * hidden + hidden * hidden + hidden * out)
    student = 2 * forward(views.global_size) + views.local_views * forward(views.local_size)
    # Positions are resized once for all local views of a batch.
    old, new = (views.global_size // patch) ** 2, (views.local_size // patch) ** 2
    student += 2 * old * new * width / config.train.batch
    student += head * (2 + views.local_views + masked)
    return 3 * student + 2 * forward(views.global_size) + head * (2 + masked)


def small(masks: float = 0.5) -> PretrainConfig:
    return dataclasses.replace(
        configuration(),
        backbone=BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=3, heads=2, patch=8, registers=2),
        head=HeadConfig(hidden=24, width=8),
        views=ViewsConfig(global_size=64, local_size=32, local_views=3),
        masks=MaskConfig(views=masks),
        train=TrainConfig(batch=4),
    )


@pytest.mark.parametrize("masks", [0.5, 0.0])
def test_a_small_vit_by_hand(masks: float) -> None:
    config = small(masks)
    expected = by_hand(config, width=32, depth=3, patch=8, prefix=3, hidden=24, out=8)
    assert step_operations(on_meta(config), config).nominal == pytest.approx(expected, rel=1e-12)


def blocks_of_small(views: int, side: int) -> float:
    """A forward pass of the blocks alone."""
    n = (side // 8) ** 2 + 3
    return views * 3 * (2 * n * 32 * 32 * 12 + 4 * n * n * 32)


def test_drop_path_leaves_out_whole_rows() -> None:
    """Of 8 global rows int(8 * 0.7) = 5 remain, of 12 local ones int(12 * 0.7) = 8."""
    config = small()
    found = step_operations(on_meta(config, 0.3), config)
    saved = 3 * ((1 - 5 / 8) * blocks_of_small(2, 64) + (1 - 8 / 12) * blocks_of_small(3, 32))
    assert found.nominal - found.executed == pytest.approx(saved, rel=1e-12)


def test_computing_blocks_again_adds_the_forward_pass_of_the_rows_that_remain() -> None:
    config = small()
    kept, again = (step_operations(on_meta(config, 0.3, checkpoint_activations=a), config) for a in (False, True))
    assert again.nominal == kept.nominal
    added = 5 / 8 * blocks_of_small(2, 64) + 8 / 12 * blocks_of_small(3, 32)
    assert again.executed - kept.executed == pytest.approx(added, rel=1e-12)


def test_every_network_is_counted_as_its_forward_pass_runs(
    kind: str, make_network: MakeNetwork, side: Callable[[Network], int]
) -> None:
    """On real tensors, and the network is left as it was."""
    network = make_network(kind, 0.3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    views = ViewsConfig(global_size=side(network), local_size=side(network) // 2, local_views=2)
    config = dataclasses.replace(small(0.0), views=views)
    found = step_operations(network.eval(), config)
    x = torch.randn(8, 3, views.global_size, views.global_size, dtype=torch.float64)
    local = torch.randn(8, 3, views.local_size, views.local_size, dtype=torch.float64)
    nothing = torch.empty(0, dtype=torch.int64)

    def count(module: Network, locals_: torch.Tensor | None) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x, locals_, None, nothing)
        return counter.get_total_flops() / 4

    assert found.executed == pytest.approx(3 * count(network.train(), local) + count(network.eval(), None), rel=1e-12)
    assert found.nominal == pytest.approx(3 * count(network, local) + count(network, None), rel=1e-12)
    assert network.drop_path == 0.3
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
