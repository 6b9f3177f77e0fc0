"""Building a ViT or ConvNeXt: registers, LayerScale, first weights, sizes; what cannot be built is told."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.run import UserError

TINY = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)


def built(config: BackboneConfig = TINY, image_size: int = 32) -> Any:
    torch.manual_seed(0)
    return build(config, image_size).eval()


def test_has_the_size_that_was_asked_for() -> None:
    model = built()
    assert (len(model.blocks), model.num_features, model.patch_embed.patch_size) == (2, 32, (8, 8))
    assert model.blocks[0].attn.num_heads == 2
    assert model.pos_embed.shape == (1, 16, 32)


def test_fields_left_null_are_the_models_own() -> None:
    model = built(BackboneConfig(name="vit_tiny_patch16_224"), 224)
    assert (len(model.blocks), model.num_features, model.patch_embed.patch_size) == (12, 192, (16, 16))
    assert model.blocks[0].attn.num_heads == 3


def test_has_four_registers_and_layer_scale_of_a_tenth() -> None:
    model = built()
    assert model.reg_token.shape == (1, 4, 32)
    assert model.num_prefix_tokens == 5
    for block in model.blocks:
        assert torch.equal(block.ls1.gamma, torch.full((32,), 0.1))
        assert torch.equal(block.ls2.gamma, torch.full((32,), 0.1))


@pytest.mark.parametrize("registers", [0, 1, 8])
def test_registers_can_be_chosen(registers: int) -> None:
    config = BackboneConfig(name=TINY.name, width=32, depth=1, heads=2, patch=8, registers=registers)
    assert built(config).num_prefix_tokens == 1 + registers


def test_the_feature_is_the_class_token_after_the_final_norm() -> None:
    model = built()
    normed: list[Tensor] = []
    model.norm.register_forward_hook(lambda _, __, out: normed.append(out))
    feature = model(torch.randn(2, 3, 32, 32))
    assert normed[0].shape == (2, 5 + 16, 32)
    assert torch.equal(feature, normed[0][:, 0])


@pytest.mark.parametrize("side", [16, 32, 48])
def test_takes_other_image_sizes(side: int) -> None:
    assert built()(torch.randn(1, 3, side, side)).shape == (1, 32)


def test_has_no_dropout_and_no_drop_path_of_its_own() -> None:
    # The student's stochastic depth is Umbel's; another one inside would double it.
    model = built().train()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), model(images))


def test_weights_come_from_the_global_seed() -> None:
    a, b = built(), built()
    torch.manual_seed(1)
    other = build(TINY, 32)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])
    assert not torch.equal(a.pos_embed, other.pos_embed)


def test_the_class_token_carries_its_position_and_registers_carry_none() -> None:
    model = built(BackboneConfig(name=TINY.name, width=512, depth=1, heads=2, patch=8))
    assert model.cls_token.detach().std().item() == pytest.approx(0.02, rel=0.15)
    assert model.reg_token.detach().std().item() == pytest.approx(1e-6, rel=0.15)


def test_timm_builds_the_same_model_from_the_arguments_alone() -> None:
    again = timm.create_model(TINY.name, num_classes=0, **model_arguments(TINY, 32))
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (built(), again)]
    assert shapes[0] == shapes[1]


# --- Rotary positions: the same layout and first weights


DINOV3 = BackboneConfig(name="vit_small_patch16_dinov3", width=256, depth=3, heads=4, patch=8)


def test_a_dinov3_has_registers_layer_scale_and_the_class_token_for_its_feature() -> None:
    model = built(DINOV3)
    assert (len(model.blocks), model.num_features, model.patch_embed.patch_size) == (3, 256, (8, 8))
    assert model.num_prefix_tokens == 5
    assert model.pos_embed is None
    for block in model.blocks:
        assert torch.equal(block.gamma_1, torch.full((256,), 0.1))
        assert torch.equal(block.gamma_2, torch.full((256,), 0.1))
    x = torch.randn(2, 3, 32, 48)
    assert torch.equal(model(x), model.forward_features(x)[:, 0])


@pytest.mark.parametrize("config", [
    DINOV3,
    BackboneConfig(name="eva02_tiny_patch14_224", width=192, depth=3, heads=3, patch=8),
    BackboneConfig(name="vit_wee_patch16_reg1_gap_256", width=256, depth=3, heads=4, patch=8),
], ids=lambda config: config.name)  # fmt: skip
def test_first_weights_are_the_specifications_whatever_timms_are(config: BackboneConfig) -> None:
    model = built(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.detach().std().item() == pytest.approx(0.02, rel=0.03), name
            assert module.bias is None or not module.bias.any(), name
    assert model.cls_token.detach().std().item() == pytest.approx(0.02, rel=0.25)
    assert model.reg_token.detach().std().item() == pytest.approx(1e-6, rel=0.25)
    if model.pos_embed is not None:
        assert model.pos_embed.shape[1] == 16
        assert model.pos_embed.detach().std().item() == pytest.approx(0.02, rel=0.05)


# --- ConvNeXt


def test_a_convnext_is_timms_own() -> None:
    config = BackboneConfig(name="convnext_atto")
    assert model_arguments(config, 64) == {}
    torch.manual_seed(0)
    expected = timm.create_model("convnext_atto", num_classes=0).state_dict()
    for name, value in built(config, 64).state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("fields", [{"width": 32}, {"depth": 2, "heads": 2}, {"patch": 4}])
def test_a_vits_sizes_are_refused_for_a_convnext(fields: dict[str, int]) -> None:
    with pytest.raises(UserError, match="convnext_atto is a ConvNeXt of fixed shape") as caught:
        build(BackboneConfig(name="convnext_atto", **fields), 64)
    assert all(f"backbone.{field}" in str(caught.value) for field in fields)


@pytest.mark.parametrize(("size", "near"), [(16, "32"), (48, "32 or 64"), (100, "96 or 128")])
def test_an_image_that_a_convnexts_stride_does_not_divide_is_refused(size: int, near: str) -> None:
    words = f"views.global_size {size} is not a multiple of the total stride of 32 px of convnext_atto: choose {near}."
    with pytest.raises(UserError, match=f"^{words}$"):
        build(BackboneConfig(name="convnext_atto"), size)


# --- What is refused


@pytest.mark.parametrize(("name", "words"), [
    ("vit_smal_patch16_224", "did you mean 'vit_small_patch16_224'"),
    ("convnext_tyny", "did you mean 'convnext_tiny'"),
    ("quite_unlike_any_of_them", "not a timm model"),
    ("resnet18", "resnet18 has batch norm: the teacher averages parameters"),
    ("mixer_s16_224", "mixer_s16_224 is neither a plain vision transformer nor a ConvNeXt"),
    ("swin_tiny_patch4_window7_224", "neither a plain vision transformer nor a ConvNeXt"),
])  # fmt: skip
def test_what_is_no_vit_and_no_convnext_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(BackboneConfig(name=name), 224)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [30, 4])
def test_an_image_that_the_patch_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"views.global_size {size} is not a multiple"):
        build(TINY, size)


def test_a_width_that_the_models_own_heads_do_not_divide_is_the_users_mistake() -> None:
    # The heads left null are vit_tiny's three.
    with pytest.raises(UserError, match="heads"):
        build(BackboneConfig(name="vit_tiny_patch16_224", width=32), 224)


def test_an_unknown_tag_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="nonsense"):
        build(BackboneConfig(name="vit_tiny_patch16_224.nonsense"), 224)


@pytest.mark.parametrize("values", [
    {"width": 0}, {"depth": -1}, {"patch": 0}, {"width": 30, "heads": 4}, {"registers": -1}, {"layer_scale": -0.1},
])  # fmt: skip
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="backbone"):
        BackboneConfig(**values)
