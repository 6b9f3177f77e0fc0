"""Positions: the fixed linear map against timm's resizing, exact gradients in float64, and rotary embeddings kept."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from umbel.ssl.network import Network
from umbel.ssl.positions import RotaryPositions, add_positions, learned_positions, resize_matrix

MakeNetwork = Callable[..., Network]
CPU = torch.device("cpu")
LEARNED = ["ours", "plain", "DINOv2", "DINOv2 with registers", "EVA-02"]
GRIDS = [(2, 2), (3, 3), (6, 6), (2, 8), (5, 3)]


def positions_of_timm(network: Network, grid: tuple[int, int]) -> Tensor:
    b = network.backbone
    inside = 0 if b.no_embed_class else b.num_prefix_tokens
    return resample_abs_pos_embed(b.pos_embed, list(grid), b.patch_embed.grid_size, inside)


@pytest.mark.parametrize("old", [(14, 14), (37, 37), (16, 12)])
@pytest.mark.parametrize("new", [(6, 6), (7, 7), (16, 16), (32, 20)])
def test_the_map_is_timms_resizing(old: tuple[int, int], new: tuple[int, int]) -> None:
    # As wide as positions begin; timm's float32 knows where a place lies to some 1e-6.
    positions = 0.02 * torch.randn(1, old[0] * old[1], 24, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions, list(new), list(old), 0)
    matrix = resize_matrix(old, new, CPU)
    assert matrix.dtype == torch.float64
    assert matrix.shape == (new[0] * new[1], old[0] * old[1])
    # Every new place is a weighted mean of old ones.
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close((matrix @ positions[0].double()).float(), theirs[0], rtol=0, atol=2e-7)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_timms_with_and_without_a_class_position(
    kind: str, grid: tuple[int, int], make_network: MakeNetwork
) -> None:
    network = make_network(kind, dtype=torch.float32)
    torch.testing.assert_close(
        learned_positions(network.backbone, grid), positions_of_timm(network, grid), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", LEARNED)
def test_the_grid_that_positions_were_made_for_takes_them_as_they_are(kind: str, make_network: MakeNetwork) -> None:
    backbone = make_network(kind).backbone
    assert learned_positions(backbone, (4, 4)) is backbone.pos_embed
    # As many places in another shape are resized.
    assert not torch.allclose(learned_positions(backbone, (2, 8)), backbone.pos_embed)


@pytest.mark.parametrize("kind", ["ours", "DINOv2"])
@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_gradients_are_those_of_float64(kind: str, grid: tuple[int, int], make_network: MakeNetwork) -> None:
    backbone = make_network(kind).backbone
    inside = 0 if backbone.no_embed_class else 1
    found = learned_positions(backbone, grid)
    patches = backbone.pos_embed[:, inside:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    expected = torch.cat([backbone.pos_embed[:, :inside], resized.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weights).sum(), backbone.pos_embed)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)


def test_half_precision_leaves_positions_in_float32(make_network: MakeNetwork) -> None:
    backbone = make_network("ours", dtype=torch.float32).backbone
    plain = learned_positions(backbone, (2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learned_positions(backbone, (2, 2)), plain)


@pytest.mark.parametrize("kind", ["ours", "DINOv3"])
def test_what_inference_has_made_serves_training(kind: str, make_network: MakeNetwork) -> None:
    resize_matrix.cache_clear()
    network = make_network(kind)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        network.tokens(x, None)
    network.tokens(x, None).sum().backward()


def test_class_token_and_registers_have_no_position_of_a_network_of_ours(make_network: MakeNetwork) -> None:
    backbone = make_network("ours").backbone
    tokens = add_positions(backbone, torch.zeros(3, 2, 3, 32, dtype=torch.float64))
    assert tokens.shape == (3, 1 + 4 + 6, 32)
    torch.testing.assert_close(tokens[:, :1], backbone.cls_token.expand(3, -1, -1))
    torch.testing.assert_close(tokens[:, 1:5], backbone.reg_token.expand(3, -1, -1))
    torch.testing.assert_close(tokens[:, 5:], learned_positions(backbone, (2, 3)).expand(3, -1, -1))


# --- Rotary positions


def test_networks_without_rotary_positions_have_none(make_network: MakeNetwork) -> None:
    assert RotaryPositions()(make_network("ours").backbone, (4, 4)) == [None, None]


@pytest.mark.parametrize("kind", ["DINOv3", "EVA-02"])
def test_constant_rotary_positions_are_made_once_for_each_grid(kind: str, make_network: MakeNetwork) -> None:
    backbone, rotary = make_network(kind).backbone, RotaryPositions()
    for grid in ((4, 4), (2, 3), (3, 2)):
        first, second = rotary(backbone, grid), rotary(backbone, grid)
        assert first[0] is first[1] is second[0]
        assert torch.equal(first[0], backbone.rope.get_embed(shape=list(grid)))  # type: ignore[arg-type]
    # Another type of number, as a copy of the network may have, is made anew.
    assert rotary(backbone.float(), (4, 4))[0].dtype == torch.float32  # type: ignore[union-attr]


def test_learned_rotary_positions_follow_their_parameters(make_network: MakeNetwork) -> None:
    backbone, rotary = make_network("learned rotation").backbone, RotaryPositions()
    first = rotary(backbone, (4, 4))
    assert not torch.equal(first[0], first[1])  # type: ignore[arg-type]
    with torch.no_grad():
        backbone.rope.freqs.mul_(2)
    assert not torch.equal(first[0], rotary(backbone, (4, 4))[0])  # type: ignore[arg-type]


def test_rotary_positions_that_training_shakes_are_drawn_anew(make_network: MakeNetwork) -> None:
    backbone, rotary = copy.deepcopy(make_network("DINOv3").backbone), RotaryPositions()
    rope = backbone.rope
    rope.shift_coords, rope.aug_active = 0.3, True
    still = rotary(backbone.eval(), (4, 4))[0]
    torch.manual_seed(0)
    shaken = [rotary(backbone.train(), (4, 4))[0] for _ in range(2)]
    assert not torch.equal(shaken[0], shaken[1])  # type: ignore[arg-type]
    assert torch.equal(rotary(backbone.eval(), (4, 4))[0], still)  # type: ignore[arg-type]
