"""Compiled blocks: equal to eager ones, and one code for all blocks of a shape."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch._dynamo
import torch.distributed
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from umbel.machine import missing_for_compile
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network, Outputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_compile("cpu")), reason="no C++ compiler is here, which torch.compile needs"),
]
B, L = 3, 2
SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "global_pool": "token", "dynamic_img_size": True,
    "num_classes": 0, "reg_tokens": 1, "init_values": 0.1,
}  # fmt: skip
KINDS: dict[str, Callable[[int], Any]] = {
    "ViT": lambda depth: timm.create_model("vit_tiny_patch16_224", depth=depth, **SMALL),
    "DINOv3": lambda depth: timm.create_model(
        "vit_small_patch16_dinov3", depth=depth, **{k: v for k, v in SMALL.items() if k != "reg_tokens"}
    ),
    "ConvNeXt": lambda depth: timm.create_model(
        "convnext_tiny", dims=(8, 12, 16, 24), depths=(1, 1, depth, 1), num_classes=0
    ),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No compiled code of another test, and torch's settings as they were."""
    before = torch._dynamo.config.recompile_limit, torch._dynamo.config.optimize_ddp
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit, torch._dynamo.config.optimize_ddp = before


def make_network(kind: str, depth: int, **settings: bool) -> Network:
    torch.manual_seed(0)
    masking = kind != "ConvNeXt"
    network = Network(KINDS[kind](depth), HeadConfig(hidden=24, width=8), 0.4, masking=masking, **settings)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.train()


def step(network: Network, student: Any = None) -> tuple[Outputs, Outputs, dict[str, Tensor]]:
    """The teacher's outputs, the student's, and the student's gradients, as in a step of training."""
    generator = torch.Generator().manual_seed(0)
    side = network.stride * (2 if network.convolutional else 4)
    globals_ = torch.randn(2 * B, 3, side, side, generator=generator)
    locals_ = torch.randn(L * B, 3, side // 2, side // 2, generator=generator)
    masks = torch.rand(2 * B, 4 if network.convolutional else 16, generator=generator) < 0.4
    if network.convolutional:
        masks[:] = False
    masked = masks.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        teacher = copy.deepcopy(network).eval()(globals_, None, None, masked)
    torch.manual_seed(1)
    out = (student or network)(globals_, locals_, masks, masked)
    network.zero_grad()
    (out.classes[..., 0].sum() + out.patches[..., 0].sum()).backward()
    return teacher, out, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_compiled_blocks_compute_the_same(kind: str, again: bool) -> None:
    """To 1e-5 of the greatest entry, with drop path: the same rows are left out."""
    eager = step(make_network(kind, 2))
    compiled = step(make_network(kind, 2, compile_blocks=True, checkpoint_activations=again))
    assert counters["stats"]["unique_graphs"] >= 3
    assert not counters["graph_break"]
    for a, b in zip([*eager[0], *eager[1]], [*compiled[0], *compiled[1]], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert set(eager[2]) == set(compiled[2])
    scale = max(float(gradient.abs().max()) for gradient in eager[2].values())
    for name, gradient in eager[2].items():
        torch.testing.assert_close(compiled[2][name], gradient, rtol=0, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize(("kind", "graphs"), [("ViT", 3), ("DINOv3", 3)])
def test_one_code_serves_blocks_of_any_number(kind: str, graphs: int) -> None:
    """For the student's global and local views and the teacher's global ones, and none in a second step."""
    for depth in (2, 6):
        torch._dynamo.reset()
        counters.clear()
        network = make_network(kind, depth, compile_blocks=True)
        step(network)
        assert counters["stats"]["unique_graphs"] == graphs
        step(network)
        assert counters["stats"]["unique_graphs"] == graphs


def test_the_codes_of_a_convnext_do_not_grow_with_its_depth() -> None:
    """One for each stage and kind of views, and another where the first block of a stage gets other strides."""
    found = []
    for depth in (3, 7):
        torch._dynamo.reset()
        counters.clear()
        step(make_network("ConvNeXt", depth, compile_blocks=True))
        found.append(counters["stats"]["unique_graphs"])
    # More than the 8 that torch allows by itself, after which it would compile no more.
    assert 4 * 3 <= found[0] == found[1] <= 4 * 3 * 2


def test_every_size_has_a_code_of_its_own() -> None:
    """torch would write one for all sizes from the second on, and that one is slower."""
    network = make_network("ViT", 1, compile_blocks=True)
    for count, n in enumerate((4, 6, 8, 10), 1):
        network.tokens(torch.zeros(n, 3, 32, 32), None)
        assert counters["stats"]["unique_graphs"] == count


def test_data_parallel_training_takes_the_same_codes(tmp_path: Path) -> None:
    """torch would split a compiled block at the borders of gradient buckets."""
    eager = step(make_network("ViT", 2))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        network = make_network("ViT", 2, compile_blocks=True)
        compiled = step(network, DistributedDataParallel(network, bucket_cap_mb=0.01))
    finally:
        torch.distributed.destroy_process_group()
    assert counters["stats"]["unique_graphs"] == 3
    for name, gradient in eager[2].items():
        torch.testing.assert_close(compiled[2][name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_weights_and_exports_know_nothing_of_it() -> None:
    plain, compiled = make_network("ViT", 2), make_network("ViT", 2, compile_blocks=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert compiled.backbone.forward.__qualname__ == plain.backbone.forward.__qualname__
