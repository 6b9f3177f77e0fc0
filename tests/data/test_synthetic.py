"""The synthetic plants: deterministic, botanically true to their parameters, not told by color."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from umbel.data.synthetic import SPECIES, Species, describe, draw
from umbel.data.synthetic_drawing import blade, leaf_form, paint_flower, palette, petal_form, rim, toothed
from umbel.data.synthetic_species import Outline

NUMBERS = {
    "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "thirteen": 13, "twenty": 20,
}  # fmt: skip
HUES = {"petal_hue", "leaf_hue"}
NAMES = {"name", "genus", "family", "common_name"}
every_species = pytest.mark.parametrize("species", SPECIES, ids=lambda s: s.name.replace(" ", "-"))


def digest(seed: int, index: int, size: int = 96) -> str:
    return hashlib.sha256(draw(seed, index, size=size).image.tobytes()).hexdigest()


def test_same_bytes_in_a_fresh_process() -> None:
    code = (
        "import hashlib; from umbel.data.synthetic import draw; "
        "print(*(hashlib.sha256(draw(3, i).image.tobytes()).hexdigest() for i in (30, 7)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(3, 30), digest(3, 7)]


def test_order_and_global_state_do_not_matter() -> None:
    np.random.seed(0)  # noqa: NPY002 - the global state is what must be left alone
    forward = [digest(1, index) for index in range(12)]
    following = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert np.random.random() == following  # noqa: NPY002
    assert [digest(1, index) for index in reversed(range(12))] == forward[::-1]


def test_seed_index_and_label_each_change_the_picture() -> None:
    assert len({digest(seed, index) for seed in range(4) for index in range(0, 96, 24)}) == 16
    drawn = {draw(0, 0, label=label).image.tobytes() for label in range(len(SPECIES))}
    assert len(drawn) == len(SPECIES)


def test_label_defaults_to_the_index_and_is_checked() -> None:
    assert [draw(0, index).label for index in (0, 25, 47)] == [0, 1, 23]
    plant = draw(0, 25, label=7)
    assert plant.label == 7
    assert plant.text == describe(SPECIES[7])
    assert plant.metadata["name"] == SPECIES[7].name
    for label in (-1, len(SPECIES)):
        with pytest.raises(ValueError, match="label"):
            draw(0, 0, label=label)


def test_species_differ_in_form_not_only_in_hue() -> None:
    assert len(SPECIES) >= 20
    forms = {tuple(str(v) for k, v in asdict(s).items() if k not in HUES | NAMES) for s in SPECIES}
    assert len(forms) == len(SPECIES)
    assert len({s.name for s in SPECIES}) == len({s.common_name for s in SPECIES}) == len(SPECIES)


@pytest.mark.parametrize("trait", sorted(HUES))
def test_every_hue_is_shared_across_genera(trait: str) -> None:
    for hue in {getattr(s, trait) for s in SPECIES}:
        assert len({s.genus for s in SPECIES if getattr(s, trait) == hue}) >= 6


@every_species
def test_names_and_classification_agree(species: Species) -> None:
    genus, epithet = species.name.split()
    assert genus == species.genus
    assert epithet == epithet.lower()
    sisters = [s for s in SPECIES if s.genus == genus]
    assert len(sisters) == 3
    assert {s.family for s in sisters} == {species.family}


@every_species
def test_description_is_true_to_the_parameters(species: Species) -> None:
    for told in (species, replace(species, margin="serrate", petals=6), replace(species, margin="entire")):
        text = describe(told)
        leaves, flowers = text.split(": ")[1].split("; ")
        margins = {"entire", "serrate", "crenate", "lobed"} & set(leaves.split())
        assert margins == {told.margin}
        assert NUMBERS[flowers.split()[0]] == told.petals
        assert f"{told.petal_hue} petals" in flowers
        assert f" {told.outline.name} " in leaves
        assert f"{told.venation} veins" in leaves
        assert re.match(rf"{told.name}, {told.common_name}: .*\.$", text)
    assert describe(species) == draw(0, SPECIES.index(species), size=32).text


@every_species
def test_drawn_flower_has_the_stated_number_of_petals(species: Species) -> None:
    canvas = Image.new("RGB", (400, 400))
    rng = np.random.default_rng(0)
    colors = replace(palette(species, rng), petal=(255, 255, 255))
    frame = np.array([[180.0, 0.0], [0.0, 180.0], [200.0, 200.0]])
    paint_flower(ImageDraw.Draw(canvas), species, colors, frame, rng)
    angles = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    steps = np.arange(190)[:, None]
    rays = np.stack([200 + steps * np.sin(angles), 200 + steps * np.cos(angles)]).round().astype(int)
    covered = (np.asarray(canvas).max(axis=2) > 0)[rays[0], rays[1]]  # (190, 1024)
    # Where petals repeat N times around, the covered area has no rhythm slower than N.
    spectrum = np.abs(np.fft.rfft(covered.sum(axis=0)))[1:64]
    slowest = np.flatnonzero(spectrum > 0.5 * spectrum.max())[0] + 1
    assert slowest == species.petals


@every_species
def test_petal_has_the_described_tip(species: Species) -> None:
    petal = petal_form(species)[:20]  # the upper side, base to tip
    words = describe(species).split("; ")[1].split()
    near_tip = np.interp(0.97, petal[:, 0], petal[:, 1]) / petal[:, 1].max()
    if "notched" in words:
        assert petal[-1, 0] < petal[:, 0].max() - 0.02
    else:
        assert petal[-1, 0] == petal[:, 0].max()
        assert near_tip < 0.15 if "pointed" in words else near_tip > 0.4
    assert ("narrow" in words) == (species.petal_width < 0.5)


@every_species
def test_margin_has_the_stated_number_of_teeth(species: Species) -> None:
    plain = blade(species.outline, 400)
    cut = toothed(plain, species)
    if species.margin == "entire":
        assert species.teeth == 0
        assert np.array_equal(cut, plain)
        return
    tangent = np.gradient(plain, axis=0)[:400]
    outward = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    rise = ((cut - plain)[:400] * outward).sum(axis=1)
    # A tooth is complete where the margin falls back inward; the tip of the leaf is not a tooth.
    ends = (rise[:-1] > 0) & (rise[1:] <= 0)
    assert ends[:390].sum() == species.teeth


@every_species
def test_divided_leaves_have_the_stated_number_of_leaflets(species: Species) -> None:
    form = leaf_form(species)
    assert len(form.outlines) == species.leaflets
    assert (species.leaflets == 1) == (species.division == "simple")
    assert np.isfinite(form.outlines).all()
    assert np.isfinite(form.lines).all()


def test_superformula_known_curves() -> None:
    phi = np.linspace(-np.pi, np.pi, 360, endpoint=False)
    circle = rim(Outline(name="circle", m=2, n1=2, n2=2, width=1.0), phi)
    np.testing.assert_allclose(np.hypot(circle[:, 0] - 0.5, circle[:, 1]), 0.5, atol=1e-3)
    # With m = 4 the four corners lie a quarter turn apart, at equal distance from the middle.
    corners = rim(Outline(name="square", m=4, n1=1, n2=1, width=1.0), np.arange(-2, 2) * np.pi / 2)
    expected = np.array([[0.0, 0.0], [0.5, -0.5], [1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(corners, expected, atol=1e-3)


@pytest.mark.parametrize("size", [32, 33, 48, 64, 65, 96, 127, 224, 256])
def test_any_size_gives_a_full_picture(size: int) -> None:
    for index in range(6):
        image = draw(5, index, size=size).image
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        low, high = np.percentile(image, [2, 98])
        assert high - low > 60
        assert image.reshape(-1, 3).std(axis=0).min() > 8


def test_size_changes_the_resolution_not_the_scene() -> None:
    for index in range(8):
        large = Image.fromarray(draw(2, index, size=192).image).resize((24, 24), Image.Resampling.BOX)
        small = Image.fromarray(draw(2, index, size=96).image).resize((24, 24), Image.Resampling.BOX)
        pair = np.stack([np.asarray(large), np.asarray(small)]).reshape(2, -1).astype(float)
        assert np.corrcoef(pair)[0, 1] > 0.9


def test_metadata_survives_json() -> None:
    plant = draw(0, 8)
    assert json.loads(json.dumps(plant.metadata)) == plant.metadata
    assert set(plant.metadata) == NAMES | {"traits", "license"}
    traits = plant.metadata["traits"]
    assert isinstance(traits, dict)
    assert traits["petals"] == SPECIES[8].petals
    assert not NAMES & set(traits)


def test_color_does_not_give_the_species_away() -> None:
    """Five-shot nearest centroid on color histograms stays below 20 % (chance is 4 %)."""
    shots, queries = 5, 10
    features = []
    for index in range((shots + queries) * len(SPECIES)):
        codes = draw(9, index).image.reshape(-1, 3).astype(int) // 32 @ [64, 8, 1]
        histogram = np.bincount(codes, minlength=512).astype(float)
        features.append(histogram / np.linalg.norm(histogram))
    grid = np.stack(features).reshape(shots + queries, len(SPECIES), 512)
    centroids = grid[:shots].mean(axis=0)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = (grid[shots:] @ centroids.T).argmax(axis=2)
    assert (found == np.arange(len(SPECIES))).mean() < 0.20
