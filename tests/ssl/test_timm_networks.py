"""Every network that the trainer takes against timm's own forward pass: features, masks, drop path, gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umbel.ssl.blocks import branches_of
from umbel.ssl.network import Network, check_backbone

MakeNetwork = Callable[..., Network]
Side = Callable[[Network], int]
B, L = 3, 2


def images(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def timm_tokens(network: Network, x: Tensor) -> Tensor:
    """What timm itself computes: tokens after the final norm, or the pooled feature as the only one."""
    backbone = network.backbone
    if network.convolutional:
        return backbone(x)[:, None]
    return backbone.fc_norm(backbone.forward_features(x))


def gradients(network: Network, out: Tensor) -> dict[str, Tensor]:
    """Of a random projection of the outputs, by every backbone parameter that has one."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=out.dtype)
    named = dict(network.backbone.named_parameters())
    found = torch.autograd.grad((out * weights).sum(), list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def test_tokens_and_gradients_are_timms(kind: str, make_network: MakeNetwork, side: Side) -> None:
    network = make_network(kind).eval()
    x = images(4, side(network))
    ours, theirs = network.tokens(x, None), timm_tokens(network, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert_same(gradients(network, ours), gradients(network, theirs), rtol=1e-9, atol=1e-9)


def test_the_class_token_is_the_feature_that_timm_gives(kind: str, make_network: MakeNetwork, side: Side) -> None:
    network = make_network(kind).eval()
    x = images(4, side(network))
    assert network.backbone(x).shape == (4, network.backbone.num_features)
    torch.testing.assert_close(network.tokens(x, None)[:, 0], network.backbone(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("grid", [2, 3, 6])
def test_other_sizes_are_timms_within_its_float32(kind: str, grid: int, make_network: MakeNetwork) -> None:
    network = make_network(kind).eval()
    x = images(2, grid * network.stride)
    torch.testing.assert_close(network.tokens(x, None), timm_tokens(network, x), rtol=1e-5, atol=1e-5)


def masked_case(network: Network, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (2B, 3, side, side), masks (2B, P) and the flat indices of what they mask; nothing for a ConvNeXt."""
    masks = torch.rand(2 * B, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    masks[1] = False
    if network.convolutional:
        masks = torch.zeros(2 * B, 4, dtype=torch.bool)
    return images(2 * B, side), masks, masks.flatten().nonzero().squeeze(1)


def test_a_masked_patch_is_the_mask_token_before_positions(
    vit_kind: str, make_network: MakeNetwork, side: Side
) -> None:
    network = make_network(vit_kind).eval()
    x, masks, _ = masked_case(network, side(network))
    ours = network.tokens(x, masks)
    own = gradients(network, ours)

    def hide(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        for row in range(len(out)):
            for place in range(16):
                if masks[row, place]:
                    out = out.clone()
                    out[row, place // 4, place % 4] = network.mask_token
        return out

    network.backbone.patch_embed.register_forward_hook(hide)
    theirs = timm_tokens(network, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert_same(own, gradients(network, theirs), rtol=1e-9, atol=1e-9)


def test_every_parameter_that_trains_has_a_gradient(kind: str, make_network: MakeNetwork, side: Side) -> None:
    """Data-parallel training waits for each of them."""
    network = make_network(kind, masking=not kind.startswith("ConvNeXt"))
    x, masks, masked = masked_case(network, side(network))
    out = network(x, images(L * B, side(network) // 2, seed=1), masks, masked)
    (out.classes[..., 0].sum() + out.patches[..., 0].sum()).backward()
    for name, parameter in network.named_parameters():
        if name == "mask_token" and network.convolutional:
            assert not parameter.requires_grad
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_without_masking_the_mask_token_does_not_train(kind: str, make_network: MakeNetwork, side: Side) -> None:
    network = make_network(kind, masking=False)
    x, masks, _ = masked_case(network, side(network))
    nothing = torch.empty(0, dtype=torch.int64)
    out = network(x, images(L * B, side(network) // 2, seed=1), torch.zeros_like(masks), nothing)
    assert out.classes.shape == (2 + L, B, 8)
    assert out.patches.shape == (0, 8)
    (out.classes[..., 0].sum() + out.patches.sum()).backward()
    assert {name for name, p in network.named_parameters() if p.grad is None} == {"mask_token"}


def test_tokens_are_the_class_tokens_of_the_global_views(kind: str, make_network: MakeNetwork, side: Side) -> None:
    network = make_network(kind)
    x, masks, masked = masked_case(network, side(network))
    out = network(x, images(L * B, side(network) // 2, seed=1), masks, masked)
    assert out.tokens.shape == (2 * B, network.backbone.num_features)
    assert not out.tokens.requires_grad
    torch.testing.assert_close(out.tokens, network.tokens(x, masks)[:, 0].detach())


class DropBySubset(nn.Module):
    """Drop path as the specification has it, in the place of timm's: all rows computed, most of it for nothing."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, residual: Tensor) -> Tensor:
        n = len(residual)
        kept = max(int(n * (1 - self.rate)), 1)
        factor = torch.zeros(n, dtype=residual.dtype)
        factor[torch.randperm(n)[:kept]] = n / kept
        return residual * factor.view(-1, *[1] * (residual.ndim - 1))


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_drop_path_by_subset_is_timms_block_with_rows_struck_out(
    kind: str, rate: float, make_network: MakeNetwork, side: Side
) -> None:
    """Global and local views, every block and every branch draw apart; values and gradients in float64."""
    network = make_network(kind, drop_path=rate).train()
    globals_, locals_ = images(6, side(network)), images(9, side(network), seed=1)
    torch.manual_seed(5)
    ours = torch.cat([network.tokens(globals_, None), network.tokens(locals_, None)])
    own = gradients(network, ours)
    for module in network.backbone.modules():
        for name in ("drop_path", "drop_path1", "drop_path2"):
            if branches_of(module) and hasattr(module, name):
                setattr(module, name, DropBySubset(rate))
    torch.manual_seed(5)
    theirs = torch.cat([timm_tokens(network, globals_), timm_tokens(network, locals_)])
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert_same(own, gradients(network, theirs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_activations_computed_again_give_the_same_bits(
    kind: str, rate: float, make_network: MakeNetwork, side: Side
) -> None:
    results = []
    for again in (False, True):
        network = make_network(kind, rate, torch.float32, checkpoint_activations=again).train()
        calls = 0

        def counted(*_: Any) -> None:
            nonlocal calls
            calls += 1

        blocks = [module for module in network.backbone.modules() if branches_of(module)]
        for block in blocks:
            block.mlp.register_forward_pre_hook(counted)
        x, masks, masked = masked_case(network, side(network))
        torch.manual_seed(2)
        out = network(x.float(), images(L * B, side(network) // 2, seed=1).float(), masks, masked)
        (out.classes[..., 0].sum() + out.patches[..., 0].sum()).backward()
        # Each block runs for global and for local views, and once more for both where nothing was kept.
        assert calls == 2 * len(blocks) * (2 if again else 1)
        results.append((out, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(a, b)
    assert set(results[0][1]) == set(results[1][1])
    for name, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][name]), name


def test_without_gradients_nothing_is_computed_again(make_network: MakeNetwork) -> None:
    network = make_network("ours", checkpoint_activations=True)
    with torch.no_grad():
        assert torch.equal(network.tokens(images(2, 32), None), make_network("ours").tokens(images(2, 32), None))


@pytest.mark.parametrize("kind", ["ours", "DINOv3", "learned rotation"])
def test_blocks_of_another_build_train_without_drop_path(kind: str, make_network: MakeNetwork) -> None:
    network = make_network(kind)
    expected = network.tokens(images(2, 32), None)
    for block in network.backbone.blocks:
        block.__class__ = type("Other", (type(block),), {})
        assert branches_of(block) == ()
    check_backbone(network.backbone, kind, drop_path=0.0, masked_views=0.5, patch_weight=1.0)
    assert torch.equal(network.tokens(images(2, 32), None), expected)
