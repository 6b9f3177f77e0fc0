"""Tokens by hand from timm's own last features; the paper's preprocessing and other sizes against slow references."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from umbel.backbones import Backbone, load
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.evaluation.baselines import untrained
from umbel.evaluation.embed import EmbedConfig
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.queries import codes_backbone, codes_hasher, of_photographs, read_photographs
from umbel.evaluation.reading import ReadConfig, load_to_read, paper_transform, read_again, read_as, weights_sha256
from umbel.evaluation.tokens import TokenReader
from umbel.run import UserError

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_tiny_patch16_224", SMALL),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL),
    "norm behind the pooling": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg"}),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL),
    "no class token": ("vit_base_patch16_siglip_224", SMALL),
    "ConvNeXt": ("convnext_tiny", {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1)}),
    "map with places first": ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}),
    "convolutions": ("resnet10t", {}),
    "mixer": ("mixer_s32_224", {"img_size": 128}),
}
WITHOUT_CLASS = ("no class token", "ConvNeXt", "map with places first", "convolutions", "mixer")
each = pytest.mark.parametrize("kind", NETWORKS)
Photograph = Callable[..., Image.Image]


def network(kind: str) -> Any:
    """With weights of which every one matters."""
    torch.manual_seed(3)
    name, arguments = NETWORKS[kind]
    model = timm.create_model(name, num_classes=0, **arguments).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model


def loaded(kind: str, folder: Path, **arguments: Any) -> Backbone:
    """The network as a folder that is loaded; images of its own are 32 pixels."""
    model, (name, own) = network(kind), NETWORKS[kind]
    card = ModelCard(
        architecture=name,
        arguments=own | arguments,
        image_size=32,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        num_features=int(model.num_features),
        global_pool=getattr(model, "global_pool", "avg") or "avg",
    )
    write_timm_folder(folder, model.state_dict(), card)
    return load(folder, any_size=True)


def layer_norm(x: np.ndarray, norm: Any) -> np.ndarray:  # (..., C)
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + norm.eps)
    return centered / deviation * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def by_hand(kind: str, model: Any, images: Tensor) -> dict[str, np.ndarray]:
    """Class token and mean of patches, in float64 from what timm's forward_features gives."""
    last = model.forward_features(images).detach().numpy().astype(np.float64)
    if kind == "ConvNeXt":
        return {"mean": layer_norm(last.sum((2, 3)) / math.prod(last.shape[2:]), model.head.norm)}
    if last.ndim == 4:
        places = (1, 2) if kind == "map with places first" else (2, 3)
        return {"mean": last.sum(places) / math.prod(last.shape[axis] for axis in places)}
    if kind == "norm behind the pooling":
        last = layer_norm(last, model.fc_norm)
    prefix = {"ViT": 1, "registers": 5, "norm behind the pooling": 1, "DINOv3": 5}.get(kind, 0)
    assert last.shape[1] == prefix + 16
    mean = last[:, prefix:].sum(1) / 16
    return {"mean": mean} | ({"class": last[:, 0], "both": np.concatenate([last[:, 0], mean], 1)} if prefix else {})


@each
def test_tokens_are_by_hand_those_of_forward_features(kind: str) -> None:
    model = network(kind)
    side = {"map with places first": 224, "ConvNeXt": 64, "convolutions": 64, "mixer": 128}.get(kind, 32)
    images = torch.randn(3, 3, side, side)
    want = by_hand(kind, model, images)
    assert ("class" in want) == (kind not in WITHOUT_CLASS)
    with torch.inference_mode():
        for tokens in ("class", "mean", "both"):
            if tokens not in want:
                with pytest.raises(ValueError, match="has no class token"):
                    TokenReader(model, tokens)
                continue
            got = TokenReader(model, tokens)(images).numpy()
            np.testing.assert_allclose(got, want[tokens], rtol=1e-4, atol=1e-5)
            assert np.abs(got).mean() > 0.01
        pooled = model(images).numpy()
    own = {
        "ConvNeXt": "mean",
        "map with places first": "mean",
        "convolutions": "mean",
        "DINOv3": "mean",
        "mixer": "mean",
    }
    if kind in ("ViT", "registers", *own):
        np.testing.assert_allclose(pooled, want[own.get(kind, "class")], rtol=1e-4, atol=1e-5)


def test_the_paper_squashes_and_cuts_as_pillow_does_it_slowly(picture: Photograph) -> None:
    """Rows, then columns, each place a sum of the pixels within two places of it, weighted by the cubic."""
    image = picture(1, width=300, height=200)
    pixels = np.asarray(image).astype(np.float64)

    def cubic(x: np.ndarray) -> np.ndarray:
        x, a = np.abs(x), -0.5
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def matrix(size: int) -> np.ndarray:
        scale = size / 256
        centers = (np.arange(256) + 0.5) * scale - 0.5
        weights = cubic((np.arange(size)[None] - centers[:, None]) / max(scale, 1))
        return weights / weights.sum(1, keepdims=True)

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.clip(np.round(x), 0, 255)

    squashed = rounded(np.einsum("oi,hic->hoc", matrix(300), pixels))
    squashed = rounded(np.einsum("oi,iwc->owc", matrix(200), squashed))
    cropped = squashed[16:240, 16:240] / 255
    want = ((cropped - [0.429, 0.459, 0.328]) / [0.221, 0.215, 0.221]).transpose(2, 0, 1)
    got = paper_transform()(image).numpy()
    assert got.shape == (3, 224, 224)
    # Pillow's weights have 22 bits: a pixel may be rounded to its neighbor.
    difference = np.abs(got - want) * 0.22 * 255
    assert difference.max() < 1.1
    assert (difference > 0.1).mean() < 0.01


def test_the_paper_reads_the_class_token_of_224_pixels(
    tmp_path: Path, picture: Photograph, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = loaded("registers", tmp_path / "backbone")
    read = read_as(backbone, ReadConfig(protocol="paper"))
    assert read.card.mean == (0.429, 0.459, 0.328)
    assert load_to_read(str(tmp_path / "backbone"), ReadConfig(protocol="paper")).dim == 16
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    for words in ("preprocessing (paper): Resize(size=(256, 256), interpolation=bicubic", "size=(224, 224)", "0.459"):
        assert words in said
    assert "the class token after the final norm" in said
    images = torch.stack([read.transform(picture(n, width=90 + n)) for n in range(2)])
    with torch.inference_mode():
        torch.testing.assert_close(read.model(images), backbone.model.forward_features(images)[:, 0])
    assert (read.dim, read.card.image_size) == (16, 224)
    read, same = (dataclasses.replace(one, source="elsewhere") for one in (read, backbone))
    assert weights_sha256(read) == weights_sha256(same)


def test_another_size_keeps_the_rest_of_the_preprocessing(tmp_path: Path, picture: Photograph) -> None:
    backbone = loaded("ViT", tmp_path / "backbone")
    read = load_to_read(str(tmp_path / "backbone"), ReadConfig(image_size=48, tokens="both"))
    image = picture(2, width=120, height=80)
    got = read.transform(image)
    assert got.shape == (3, 48, 48)
    # 7/8 of the shorter side are seen, as at 32 pixels.
    small = image.resize((81, 54), Image.Resampling.BICUBIC)
    left = round((small.width - 48) / 2)
    middle = np.asarray(small)[3:51, left : left + 48].astype(np.float64) / 255
    want = ((middle - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).transpose(2, 0, 1)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    with torch.inference_mode():
        images = torch.randn(2, 3, 48, 48)
        last = backbone.model.forward_features(images)
        assert last.shape[1] == 1 + 36
        want_both = torch.cat([last[:, 0], last[:, 1:].mean(1)], 1)
        torch.testing.assert_close(read.model(images), want_both)
    assert (read.dim, read.card.image_size) == (32, 48)


def test_pooled_at_the_own_size_is_the_backbone_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = loaded("ViT", tmp_path / "backbone")
    capsys.readouterr()
    read = load_to_read(str(tmp_path / "backbone"), ReadConfig())
    assert type(read.model) is type(backbone.model)
    read = read_as(backbone, ReadConfig())
    assert (read.model, read.transform, read.card) == (backbone.model, backbone.transform, backbone.card)
    said = capsys.readouterr().out
    assert said.startswith("preprocessing (own): Resize(size=36, ")
    assert "features pooled by 'token', not normalized" in said


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("ViT", {"image_size": 50}, "50 is no multiple of the 8 pixels of a patch .* take 48 or 56"),
        ("ViT", {"image_size": 5}, "take 8"),
        ("ConvNeXt", {"tokens": "class"}, "has no class token: leave --tokens at pooled, or say mean"),
        ("no class token", {"tokens": "both"}, "has no class token"),
        (
            "no class token",
            {"protocol": "paper"},
            "which backbone .* does not give: take --protocol own",
        ),
        ("mixer", {"image_size": 64}, "cannot take images of 64 pixels"),
    ],
)
def test_what_a_network_cannot_is_said_in_a_sentence(
    kind: str, asked: dict[str, Any], words: str, tmp_path: Path
) -> None:
    backbone = loaded(kind, tmp_path / "backbone")
    with pytest.raises(UserError, match=words) as told:
        read_as(backbone, ReadConfig(**asked))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("asked", [{"tokens": "mean"}, {"image_size": 224}])
def test_the_paper_is_not_changed(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="protocol paper fixes tokens"):
        EmbedConfig(backbone="x", data="y", out=Path("z"), protocol="paper", **asked)
    with pytest.raises(ValueError, match="image_size must be at least 1, not 0"):
        ReadConfig(image_size=0)


def test_the_untrained_backbone_is_read_the_same_way(tmp_path: Path) -> None:
    loaded("registers", tmp_path / "backbone")
    read = load_to_read(str(tmp_path / "backbone"), ReadConfig(image_size=48, tokens="mean"))
    fresh = untrained(read, seed=1)
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        got = fresh.model(images)
        network: Any = fresh.model.network
        torch.testing.assert_close(got, network.forward_features(images)[:, 5:].mean(1))
        assert (got - read.model(images)).abs().max() > 1e-3
    assert fresh.transform is read.transform


def test_a_photograph_is_read_again_as_those_that_are_stored(tmp_path: Path, picture: Photograph) -> None:
    loaded("registers", tmp_path / "backbone")
    name, image = str(tmp_path / "backbone"), picture()
    for config in (ReadConfig(), ReadConfig(tokens="both", image_size=48), ReadConfig(protocol="paper")):
        first, again = load_to_read(name, config), read_again(name, {"reading": dataclasses.asdict(config)})
        with torch.inference_mode():
            pairs = [b.model(b.transform(image)[None]) for b in (first, again)]
        assert torch.equal(*pairs)
    assert read_again(name, {"reading": None}).dim == read_again(name, {}).dim == 16


def test_hash_search_reads_its_photograph_as_the_stored_ones(
    tmp_path: Path, foreign_shards: Callable[..., Path], jpeg: Callable[..., bytes], umbel: Callable[..., Any]
) -> None:
    loaded("registers", tmp_path / "backbone")
    made, settings = (
        tmp_path / "e",
        ["--device", "cpu", "--crovca.batch", 8, "--crovca.least-steps", 0, "--photographs.workers", 0, "--bits", 4],
    )
    data = foreign_shards(2, 8)
    reading = ["--tokens", "mean", "--image-size", 48, "--workers", 0, "--device", "cpu"]
    assert umbel("embed", tmp_path / "backbone", "--data", data, "--out", made, *reading).code == 0
    fitted = umbel("hash", "fit", made, "--out", tmp_path / "coder", *settings)
    assert fitted.code == 0, fitted.err
    # The same backbone with features of another kind is another coder.
    again = ["hash", "fit", tmp_path / "backbone", "--data", data, "--out", tmp_path / "coder"]
    assert "reading" in umbel(*again, *settings).err
    encode = ["hash", "encode", tmp_path / "coder", "--embeddings", made, "--out", tmp_path / "codes"]
    assert umbel(*encode).code == 0
    (tmp_path / "mine.jpg").write_bytes(jpeg(5))
    codes = Codes.load(tmp_path / "codes")
    photographs = read_photographs([tmp_path / "mine.jpg"])
    found = of_photographs(codes_hasher(codes, None), codes_backbone(codes, None), photographs).features
    assert found is not None
    np.testing.assert_allclose(found[0], Embeddings.load(made).features[5], rtol=1e-4, atol=1e-5)
