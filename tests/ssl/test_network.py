"""The student and teacher's network against a ViT written out: mask token, layout, drop path, initial weights."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate.utils import convert_outputs_to_fp32
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from umbel.backbones.build import BackboneConfig, build
from umbel.run import UserError
from umbel.ssl.head import HeadConfig
from umbel.ssl.network import Network, Outputs, check_backbone, set_attention

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
B, L, GRID = 3, 2, 4
P, PREFIX = GRID * GRID, 5  # class token and four registers


def make_network(drop_path: float = 0.0, config: BackboneConfig = TINY) -> Network:
    """In float64, with parameters that all matter (fresh ones hide the mask token and the biases)."""
    torch.manual_seed(0)
    network = Network(build(config, GRID * 8), HeadConfig(hidden=24, width=8), drop_path).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def images(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_masks() -> tuple[Tensor, Tensor]:
    masks = torch.rand(2 * B, P, generator=torch.Generator().manual_seed(3)) < 0.4
    masks[1] = False
    return masks, masks.flatten().nonzero().squeeze(1)


def attention(block: Any, x: Tensor) -> Tensor:
    """Multi-head attention with plain products."""
    n, tokens, width = x.shape
    q, k, v = block.attn.qkv(x).view(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / (width // 2) ** 0.5).softmax(-1)
    return block.attn.proj((weights @ v).transpose(1, 2).reshape(n, tokens, width))


def reference_tokens(network: Network, x: Tensor, masks: Tensor | None) -> Tensor:
    """One image at a time: patches, mask token, positions, class token and registers, blocks, norm."""
    b, out = network.backbone, []
    for index, image in enumerate(x):
        patches = []
        for place in range(P):
            row, column = divmod(place, GRID)
            pixels = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            embedded = (b.patch_embed.proj.weight * pixels).sum((1, 2, 3)) + b.patch_embed.proj.bias
            if masks is not None and masks[index, place]:
                embedded = network.mask_token
            patches.append(embedded + b.pos_embed[0, place])
        tokens = torch.cat([b.cls_token[0], b.reg_token[0], torch.stack(patches)])[None]
        for block in b.blocks:
            tokens = tokens + block.ls1.gamma * attention(block, block.norm1(tokens))
            hidden = F.gelu(block.mlp.fc1(block.norm2(tokens)))
            tokens = tokens + block.ls2.gamma * block.mlp.fc2(hidden)
        out.append(F.layer_norm(tokens, (32,), b.norm.weight, b.norm.bias, eps=1e-6))
    return torch.cat(out)


@pytest.mark.parametrize("masked", [True, False])
def test_tokens_equal_a_transformer_written_out(masked: bool) -> None:
    network, x = make_network(), images(2 * B, 32)
    masks = some_masks()[0] if masked else None
    ours = network.tokens(x, masks)
    assert ours.shape == (2 * B, PREFIX + P, 32)
    torch.testing.assert_close(ours, reference_tokens(network, x, masks))


@pytest.mark.parametrize("fused", [True, False])
def test_both_attention_kernels_give_the_same_tokens(fused: bool) -> None:
    network, x = make_network(), images(2 * B, 32)
    set_attention(network.backbone, fused=fused)
    assert {block.attn.fused_attn for block in network.backbone.blocks} == {fused}
    torch.testing.assert_close(network.tokens(x, None), reference_tokens(network, x, None))


def test_outputs_are_the_heads_of_class_tokens_and_masked_patches_view_major() -> None:
    network, (masks, masked) = make_network(), some_masks()
    globals_, locals_ = images(2 * B, 32), images(L * B, 16, seed=1)
    classes, patches, found = network(globals_, locals_, masks, masked)
    assert classes.shape == (2 + L, B, 8)
    assert patches.shape == (len(masked), 8)
    tokens, local_tokens = reference_tokens(network, globals_, masks), network.tokens(locals_, None)
    for v in range(2):
        for b in range(B):
            torch.testing.assert_close(classes[v, b], network.head(tokens[v * B + b, 0]))
            torch.testing.assert_close(found[v * B + b], tokens[v * B + b, 0].detach())
    assert not found.requires_grad
    for v in range(L):
        for b in range(B):
            torch.testing.assert_close(classes[2 + v, b], network.head(local_tokens[v * B + b, 0]))
    row = 0
    for image in range(2 * B):
        for place in range(P):
            if masks[image, place]:
                torch.testing.assert_close(patches[row], network.head(tokens[image, PREFIX + place]))
                row += 1
    torch.testing.assert_close(patches.norm(dim=1), torch.ones(len(masked), dtype=torch.float64))


def test_the_teacher_sees_everything_and_gives_the_same_patches() -> None:
    network, (_, masked) = make_network().eval(), some_masks()
    x = images(2 * B, 32)
    classes, patches, _ = network(x, None, None, masked)
    assert classes.shape == (2, B, 8)
    tokens = reference_tokens(network, x, None)
    torch.testing.assert_close(classes.flatten(0, 1), network.head(tokens[:, 0]))
    torch.testing.assert_close(patches, network.head(tokens[:, PREFIX:].flatten(0, 1)[masked]))


def test_no_local_views_may_come_as_an_empty_tensor() -> None:
    network, (masks, masked) = make_network(), some_masks()
    none = network(images(2 * B, 32), None, masks, masked)
    empty = network(images(2 * B, 32), torch.empty(0, 3, 16, 16, dtype=torch.float64), masks, masked)
    assert all(torch.equal(a, b) for a, b in zip(none, empty, strict=True))


def test_what_a_mask_hides_influences_nothing() -> None:
    network, (masks, masked) = make_network(), some_masks()
    x = images(2 * B, 32)
    hidden = masks.view(2 * B, 1, GRID, GRID).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(hidden, images(2 * B, 32, seed=9) * 10, x)
    before, after = network(x, None, masks, masked), network(changed, None, masks, masked)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # And the teacher, without masks, does see the change.
    assert not torch.allclose(network(x, None, None, masked)[0], network(changed, None, None, masked)[0])


def test_hidden_patches_still_know_their_place() -> None:
    # All patches hidden: only positions tell their outputs apart.
    network = make_network()
    masks = torch.ones(2, P, dtype=torch.bool)
    _, patches, _ = network(images(2, 32), None, masks, torch.arange(P))
    assert torch.cdist(patches, patches).add(torch.eye(P)).min() > 1e-3


def test_the_mask_token_learns_and_hidden_pixels_get_no_gradient() -> None:
    network, (masks, masked) = make_network(), some_masks()
    x = images(2 * B, 32).requires_grad_()
    classes, patches, _ = network(x, None, masks, masked)
    (classes.sum() + patches.sum()).backward()
    assert network.mask_token.grad is not None
    assert network.mask_token.grad.abs().max() > 0
    assert x.grad is not None
    touched = x.grad.view(2 * B, 3, GRID, 8, GRID, 8).abs().sum((1, 3, 5)).view(2 * B, P) > 0
    assert torch.equal(touched, ~masks)


# --- Drop path


def test_global_and_local_views_draw_apart_and_every_block_draws() -> None:
    network = make_network(drop_path=0.5).train()
    sizes: list[int] = []
    for block in network.backbone.blocks:
        for part in (block.attn, block.mlp):
            part.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    masks, masked = some_masks()
    network(images(2 * B, 32), images(5 * B, 16), masks, masked)
    # int(6 / 2) of the globals in two branches of two blocks, then int(15 / 2) of the locals.
    assert sizes == [3] * 4 + [7] * 4


def test_rate_zero_and_eval_mode_drop_nothing() -> None:
    x, (masks, masked) = images(2 * B, 32), some_masks()
    plain = make_network(0.0).train()(x, images(B, 16), masks, masked)
    dropping = make_network(0.5)
    for network in (make_network(0.0).eval(), dropping.eval()):
        out = network(x, images(B, 16), masks, masked)
        assert all(torch.equal(a, b) for a, b in zip(plain, out, strict=True))
    out = dropping.train()(x, images(B, 16), masks, masked)
    assert not torch.allclose(out[0], plain[0])


# --- First weights


def deviation(parameter: Tensor) -> float:
    return float(parameter.detach().std())


def test_first_weights_are_those_of_the_spec() -> None:
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_small_patch16_224", width=192, depth=3, heads=3)
    network = Network(build(config, 224), HeadConfig(hidden=256, width=64), 0.0)
    b = network.backbone
    assert b.reg_token.shape == (1, 4, 192)
    assert b.pos_embed.shape == (1, 196, 192)
    assert b.patch_embed.patch_size == (16, 16)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            # At least 16384 draws: the deviation of the deviation is 0.6 %; truncated at two units, i.e. never.
            assert deviation(module.weight) == pytest.approx(0.02, rel=0.03), name
            assert module.bias is not None, name
            assert torch.equal(module.bias, torch.zeros_like(module.bias)), name
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert torch.equal(module.weight, torch.ones_like(module.weight))
    for block in b.blocks:
        for scale in (block.ls1, block.ls2):
            torch.testing.assert_close(scale.gamma.detach(), torch.full((192,), 0.1))
    assert deviation(b.pos_embed) == pytest.approx(0.02, rel=0.03)
    # The class token carries its own position (0.02), the registers have none.
    assert deviation(b.cls_token) == pytest.approx(0.02, rel=0.2)
    assert 0 < deviation(b.reg_token) == pytest.approx(1e-6, rel=0.2)
    assert torch.equal(network.mask_token, torch.zeros(192))


# --- What is refused


def check(backbone: Any, name: str = "tiny", **settings: float) -> None:
    check_backbone(backbone, name, **({"drop_path": 0.2, "masked_views": 0.5, "patch_weight": 1.0} | settings))


@pytest.mark.parametrize(("change", "words"), [
    (lambda b: setattr(b, "cls_token", None), "no class token"),
    (lambda b: setattr(b.blocks[1], "__class__", type("Other", (Block,), {})), "--optim.drop-path 0"),
    (lambda b: setattr(b, "__class__", type("Other", (VisionTransformer,), {})), "neither a plain vision transformer"),
    (lambda b: setattr(b, "norm", nn.BatchNorm1d(32)), "batch norm"),
])  # fmt: skip
def test_backbones_that_cannot_be_trained_are_refused(change: Callable[[Any], None], words: str) -> None:
    backbone = make_network().backbone
    check(backbone)
    change(backbone)
    with pytest.raises(UserError, match=words):
        check(backbone)


def test_a_hybrid_whose_patches_are_of_a_feature_map_is_refused() -> None:
    # Its patch_size (8) is not the side of a patch in pixels (32), from which the trainer makes the masks' grid.
    backbone = build(BackboneConfig(name="vit_tiny_r_s16_p8_224"), 224)
    assert backbone.patch_embed.grid_size == (7, 7)
    with pytest.raises(UserError, match="vit_tiny_r_s16_p8_224 embeds feature maps"):
        check(backbone, "vit_tiny_r_s16_p8_224")


def test_a_convnext_is_trained_by_the_image_loss_alone() -> None:
    backbone = build(BackboneConfig(name="convnext_atto"), 64)
    check(backbone, "convnext_atto", masked_views=0.0, patch_weight=0.0)
    for settings in ({"masked_views": 0.0}, {"patch_weight": 0.0}, {}):
        with pytest.raises(UserError, match=r"--masks\.views 0 and --loss\.patch-weight 0\.$"):
            check(backbone, "convnext_atto", **settings)


def test_a_network_of_another_kind_is_no_students() -> None:
    with pytest.raises(ValueError, match="dynamic_img_size"):
        Network(timm.create_model("vit_tiny_patch16_224", depth=1), HeadConfig(), 0.0)
    with pytest.raises(ValueError, match="ConvNeXt"):
        Network(nn.Linear(2, 2), HeadConfig(), 0.0)


def test_accelerate_hands_the_outputs_on_as_they_are() -> None:
    network, (masks, masked) = make_network().float(), some_masks()
    with torch.autocast("cpu", torch.bfloat16):
        out = convert_outputs_to_fp32(network.forward)(images(2 * B, 32).float(), None, masks, masked)
    assert isinstance(out, Outputs)
    assert {value.dtype for value in out} == {torch.float32}
