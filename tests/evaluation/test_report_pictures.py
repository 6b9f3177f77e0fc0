"""What a report shows of features: attention, neighbors, confusions and the map, each beside a plain restatement."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from umbel.backbones.build import BackboneConfig, build
from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.report_album import Album, same_photographs
from umbel.evaluation.report_attention import of_class_token, over_photograph, watched, why_no_attention
from umbel.evaluation.report_confusions import confused, confusions
from umbel.evaluation.report_map import maps, most_frequent
from umbel.evaluation.report_neighbors import divided, nearest, nearest_photographs
from umbel.evaluation.report_plane import on_plane
from umbel.evaluation.report_style import STYLE
from umbel.evaluation.report_style_pictures import GROUP_COLORS


def small_vit() -> Any:
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8, registers=3)
    return build(config, 32).eval()


@torch.inference_mode()
def test_attention_is_the_softmax_of_the_last_block() -> None:
    model = small_vit()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = model.blocks[-1].attn
    entered: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, given, __: entered.append(given[0]))
    before = model(images)
    hook.remove()
    fused = last.fused_attn
    with watched(model) as seen:
        during = model(images)
        assert len(seen) == 1
    # The plain restatement: one head at a time, in double precision.
    weight, bias = last.qkv.weight.double(), last.qkv.bias.double()
    queries, keys, _ = (entered[0].double() @ weight.T + bias)[0].chunk(3, dim=-1)
    maps = []
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        scores = queries[0, part] @ keys[:, part].T / 16**0.5
        maps.append((scores.exp() / scores.exp().sum())[4:])
    expected = torch.stack(maps).mean(0).reshape(4, 4)
    # A class token and three registers stand before the patches.
    torch.testing.assert_close(of_class_token(seen[0], 4, (4, 4)).double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-5)
    assert last.fused_attn is fused
    model(images)
    assert len(seen) == 1


def test_attention_is_left_as_it_was_after_an_error() -> None:
    model = small_vit()
    model.blocks[-1].attn.fused_attn = True
    with pytest.raises(RuntimeError, match=r"channels"), watched(model):
        model(torch.zeros(1, 4, 32, 32))
    assert model.blocks[-1].attn.fused_attn is True
    assert not model.blocks[-1].attn.attn_drop._forward_hooks


@torch.inference_mode()
def test_backbones_without_class_token_or_attention_say_so() -> None:
    assert why_no_attention(small_vit()) == ""
    rope = timm.create_model(
        "vit_small_patch16_dinov3", num_classes=0, depth=1, embed_dim=64, num_heads=2, img_size=32
    ).eval()
    assert why_no_attention(rope) == ""
    with watched(rope) as seen:
        rope(torch.zeros(1, 3, 32, 32))
    assert seen[0].shape[:2] == (1, 2)
    torch.testing.assert_close(seen[0].sum(-1), torch.ones_like(seen[0].sum(-1)))
    pooled = timm.create_model("vit_tiny_patch16_224", depth=1, class_token=False, global_pool="avg", num_classes=0)
    assert why_no_attention(pooled) == "the backbone has no class token"
    convolutions = timm.create_model("convnext_atto", num_classes=0)
    assert why_no_attention(convolutions) == "the backbone is no transformer whose attention can be read"


def test_the_photograph_is_light_where_the_attention_is() -> None:
    white = Image.new("RGB", (40, 20), "white")
    attention = torch.zeros(10, 20)
    attention[:, 10:] = 1.0
    pixels = np.asarray(over_photograph(white, attention))
    assert pixels.shape == (20, 40, 3)
    assert (pixels[:, :18] == 51).all()
    assert (pixels[:, 22:] == 255).all()
    # The same everywhere is no division by 0.
    assert (np.asarray(over_photograph(white, torch.ones(2, 2))) == 51).all()


def some(count: int = 30, *, width: int = 5, labels: int = 4, splits: bool = True) -> Embeddings:
    generator = np.random.default_rng(0)
    label = generator.integers(0, labels, count)
    label[3] = -1
    return Embeddings(
        features=generator.normal(size=(count, width)).astype(np.float32) * generator.uniform(0.1, 9, (count, 1)),
        label=label,
        split=np.arange(count) % 3 if splits else np.zeros(count, dtype=np.int64),
        keys=tuple(f"k{number}" for number in range(count)),
        splits=("train", "val", "test"),
        classes=tuple("abcd"),
    )


@pytest.mark.parametrize("splits", [True, False])
def test_neighbors_are_those_of_a_plain_search(splits: bool) -> None:
    of = some(splits=splits)
    found = nearest(of, seed=0, k=4)
    assert found is not None
    labeled = [row for row in range(30) if row != 3]
    asked = [row for row in labeled if of.split[row] == 2] if splits else labeled
    assert sorted(found.queries.tolist()) == asked
    unit = of.features.astype(np.float64) / np.linalg.norm(of.features, axis=1, keepdims=True)
    for query, rows, cosines in zip(found.queries, found.neighbors, found.cosines, strict=True):
        others = [row for row in labeled if row != query and not (splits and of.split[row] == 2)]
        expected = sorted(others, key=lambda row, q=query: -(unit[row] @ unit[q]))[:4]
        assert rows.tolist() == expected
        np.testing.assert_allclose(cosines, unit[expected] @ unit[query], atol=1e-5)


def test_a_photograph_is_never_its_own_neighbor_among_equals() -> None:
    of = some(8, splits=False)
    of.features[:] = 1.0
    found = nearest(of, seed=0, k=3)
    assert found is not None
    assert found.neighbors.shape == (7, 3)
    assert not (found.neighbors == found.queries[:, None]).any()


def test_without_labels_nothing_is_searched() -> None:
    of = some()
    of.label[:] = -1
    assert divided(of) is None
    assert nearest(of, seed=0) is None


def test_confused_pairs_are_counted_both_ways() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    named = np.array([1, 1, 0, 0, 1, 3, 3, 3, 2, 0])
    pairs = [(pair.labels, pair.mistakes, pair.queries) for pair in confused(truth, named)]
    # Three mistakes each; of the first pair's queries, five, they are the larger share of equal counts.
    assert pairs == [((0, 1), 3, 5), ((2, 3), 3, 5), ((0, 3), 1, 4)]
    assert confused(truth, truth) == []
    larger = np.append(truth, [0] * 5), np.append(named, [0] * 5)
    assert [pair.labels for pair in confused(*larger)][:2] == [(2, 3), (0, 1)]


def test_the_plane_keeps_groups_together_and_repeats() -> None:
    generator = np.random.default_rng(0)
    middles = 10 * generator.normal(size=(3, 8))
    group = np.repeat([0, 1, 2], 15)
    features = (middles[group] + generator.normal(size=(45, 8))).astype(np.float32)
    places = on_plane(features, seed=0)
    assert places is not None
    assert places.shape == (45, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(1)] == group).all()
    np.testing.assert_array_equal(places, on_plane(features, seed=0))
    # Lengths do not count; by powers of two they change no rounding.
    lengths = 2.0 ** generator.integers(-3, 4, (45, 1))
    np.testing.assert_array_equal(places, on_plane((features * lengths).astype(np.float32), seed=0))
    assert on_plane(features[:9], seed=0) is None
    assert on_plane(np.ones((20, 4), dtype=np.float32), seed=0) is None
    one = on_plane(np.linspace(-1, 1, 20, dtype=np.float32)[:, None], seed=0)
    assert one is None or np.isfinite(one).all()


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Album, Embeddings]:
    folder = tmp_path_factory.mktemp("plants") / "shards"
    make_synthetic(MakeSyntheticConfig(out=folder, train=24, test=48, size=32, workers=1))
    shards = open_shards(str(folder))
    count = len(shards)
    of = Embeddings(
        features=np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32),
        label=shards.members["label"].astype(np.int64),
        split=np.repeat([0, 1], [48, 24]),
        keys=tuple(map(shards.key, range(count))),
        splits=("test", "train"),
        classes=shards.classes,
    )
    return Album(shards), of


def test_a_map_shows_every_photograph_and_its_words(plants: tuple[Album, Embeddings]) -> None:
    album, of = plants
    html = maps({"": of}, album, seed=0)
    style = r'style="left:([\d.]+)%;top:([\d.]+)%;--t:var\(--t(\d+)\)"'
    dots = re.findall(rf'<i class="dot[^"]*" data-n="([^"]*)" {style}', html)
    assert sorted(int(number) for *_, number in dots) == list(range(72))
    for name, left, top, number in dots:
        assert name == of.classes[of.label[int(number)]]
        assert 0 <= float(left) <= 100
        assert 0 <= float(top) <= 100
    marked = most_frequent(of.label)
    assert marked == list(range(8))
    focusable = re.findall(r'class="dot g(\d)[^"]*" data-n="([^"]*)"[^>]*tabindex="0" role="img" aria-label="\2', html)
    assert sorted((int(place), name) for place, name in focusable) == [(at, of.classes[at]) for at in range(8)]
    unit = of.features / np.linalg.norm(of.features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    near = of.label[np.argsort(-cosine, axis=1)[:, :10]]
    own = 100 * float((near[of.label == 0] == 0).mean())
    assert f'<th scope="row">{of.classes[0]}</th><td>3</td><td>{own:.1f}\N{NO-BREAK SPACE}%</td>' in html


def test_a_map_of_features_that_are_alike_says_so(plants: tuple[Album, Embeddings]) -> None:
    album, of = plants
    of = of.take(np.arange(20))
    of.features[:] = 1.0
    assert "There is no map" in maps({"": of}, album, seed=0)


def test_pictures_of_neighbors_and_confusions(plants: tuple[Album, Embeddings]) -> None:
    album, of = plants
    html = nearest_photographs({"one": of, "two": of}, album, seed=0, rows=3)
    assert html.count('class="retrieved"') == 6
    rows = re.findall(r'<div class="retrieved">(.*?)</div>', html)
    assert rows[0] == rows[1]
    assert all(row.count("<img") == 6 for row in rows)
    label = dict(zip(of.keys, of.label.tolist(), strict=True))
    for row in rows:
        query, *others = re.findall(r'alt="(?:Query|Neighbor) (\w+): [^"]*?"', row)
        verdicts = re.findall(r"(✓ right|✗ wrong), cos", row)
        assert [verdict == "✓ right" for verdict in verdicts] == [label[other] == label[query] for other in others]
    html = confusions(of, album)
    assert html.count('class="confused"') == 4
    for one, other, count, queries in re.findall(r"<h3>(.*?) and (.*?): (\d+) of (\d+)</h3>", html):
        told = re.findall(rf"(\d+) of (\d+) taken for (?:{re.escape(one)}|{re.escape(other)})</p>", html)
        assert queries == "4"
        assert int(count) >= 1
        assert told


def test_photographs_are_known_by_split_and_fingerprint(plants: tuple[Album, Embeddings]) -> None:
    shards = plants[0].shards
    told: dict[str, object] = {"data": {"fingerprint": shards.fingerprint()}}
    assert same_photographs(told, ("test", "train"), shards)
    assert same_photographs({}, ("test", "train"), shards)
    assert not same_photographs({}, ("test", "val"), shards)
    assert not same_photographs({"data": {"fingerprint": "x"}}, ("test", "train"), shards)
    assert not plants[0].holds(["nobody"])


def luminance(color: str) -> float:
    levels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colors_of_groups_stand_out_by_day_and_by_night() -> None:
    """WCAG 1.4.11: marks and lines have a contrast of 3 at least."""
    grounds = re.findall(r"--(?:paper|card): (#\w{6})", STYLE)
    assert len(grounds) == 4
    for color in GROUP_COLORS:
        for ground in grounds:
            low, high = sorted((luminance(color), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 3, (color, ground)


def test_the_album_tells_of_damaged_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    make_synthetic(MakeSyntheticConfig(out=folder, train=2, test=0, size=32, workers=1))
    shards = open_shards(str(folder))
    shard = next(folder.glob("train-*.tar"))
    content = bytearray(shard.read_bytes())
    at = content.index(b"\xff\xd8\xff")
    content[at : at + 200] = bytes(200)
    shard.write_bytes(content)
    album = Album(shards)
    cells = [album.cell(shards.key(number), "alt", "caption", side=20) for number in range(2)]
    assert sorted("damaged" in cell for cell in cells) == [False, True]
