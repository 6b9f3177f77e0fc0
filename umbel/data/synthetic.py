"""Built-in synthetic plants: labeled pictures drawn from a seed, without any download.

Each picture shows one of 24 fictional species (superformula leaves, J. Gielis, American Journal
of Botany 90, 2003) under varied pose, light, clutter and occlusion. `draw` is a pure function.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from umbel.data.synthetic_drawing import (
    Points,
    blade,
    color,
    paint_flower,
    paint_leaf,
    palette,
    shade,
    tinted,
)
from umbel.data.synthetic_species import ELLIPTIC, LANCEOLATE, SPECIES, Species, describe

__all__ = ["SPECIES", "Species", "SyntheticPlant", "describe", "draw"]

LICENSE = "Apache-2.0 (drawn by Umbel)"

# (hue, saturation, value): soil, lawn, straw, sky, gravel, leaf litter, shade, moss.
_GROUNDS = (
    (0.07, 0.45, 0.35), (0.27, 0.5, 0.45), (0.12, 0.4, 0.7), (0.58, 0.35, 0.8),
    (0.6, 0.06, 0.6), (0.04, 0.5, 0.45), (0.4, 0.35, 0.22), (0.2, 0.5, 0.4),
)  # fmt: skip


@dataclass(frozen=True)
class SyntheticPlant:
    """One drawn photograph with its label."""

    image: NDArray[np.uint8]
    """The picture: (H, W, 3)."""
    label: int
    """Index into `SPECIES`."""
    metadata: dict[str, object]
    """Names, traits and license, all JSON-serializable."""
    text: str
    """The caption."""


def draw(seed: int, index: int, *, size: int = 96, label: int | None = None) -> SyntheticPlant:
    """Draw picture `index` of the set `seed`; `label` defaults to `index % len(SPECIES)`.

    The same arguments give the same bytes, whatever was drawn before.
    """
    chosen = index % len(SPECIES) if label is None else label
    if not 0 <= chosen < len(SPECIES):
        raise ValueError(f"label must be in 0..{len(SPECIES) - 1}, got {chosen}")
    species = SPECIES[chosen]
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    factor = 2 if size > 64 else 3
    canvas = _background(rng, size * factor)
    pen = ImageDraw.Draw(canvas)
    _clutter(pen, rng, size * factor)
    if rng.random() < 0.5:
        # A photograph in focus on the plant: what lies behind it is blurred.
        canvas = canvas.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 2.5) * size * factor / 96))
        pen = ImageDraw.Draw(canvas)
    _plant(canvas, species, rng, size * factor)
    _occluders(ImageDraw.Draw(canvas), rng, size * factor)
    image = _light(np.asarray(canvas.reduce(factor), dtype=np.float32), rng)
    names = {"name", "genus", "family", "common_name"}
    fields = asdict(species)
    metadata: dict[str, object] = {key: fields[key] for key in sorted(names)}
    metadata["traits"] = {key: value for key, value in fields.items() if key not in names}
    metadata["license"] = LICENSE
    return SyntheticPlant(image, chosen, metadata, describe(species))


def _smooth(rng: np.random.Generator, cells: int, side: int) -> NDArray[np.float32]:
    """Smooth noise, about standard normal at the grid points: (side, side)."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))


def _random_ground(rng: np.random.Generator) -> tuple[int, int, int]:
    hue, saturation, value = _GROUNDS[int(rng.integers(len(_GROUNDS)))]
    return color(hue + rng.normal(0.0, 0.04), saturation + rng.normal(0.0, 0.12), value + rng.normal(0.0, 0.12))


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Three grounds that meet in wavy borders, under coarse and fine texture."""
    grid = 64
    texture = rng.uniform(4, 16) * _smooth(rng, 12, grid) + rng.uniform(3, 20) * _smooth(rng, 40, grid)
    field = np.full((grid, grid, 3), _random_ground(rng), dtype=np.float32)
    for _ in range(2):
        share = 1 / (1 + np.exp(-6 * (_smooth(rng, 5, grid) + rng.normal(-0.3, 0.3))))[..., None]
        field = share * np.array(_random_ground(rng)) + (1 - share) * field
    field += texture[..., None]
    small = Image.fromarray(field.clip(0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BILINEAR)


def _clutter(pen: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Pebbles, twigs, grass blades and foreign leaves behind the plant."""
    for _ in range(rng.integers(0, 10)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.01, 0.05) * side
        squeeze = rng.uniform(0.6, 1.0)
        pen.ellipse((x - r, y - r * squeeze, x + r, y + r * squeeze), fill=_random_ground(rng))
    for _ in range(rng.integers(0, 5)):
        ends = rng.uniform(-0.1, 1.1, 4) * side
        width = int(rng.integers(1, max(2, side // 48) + 1))
        pen.line(ends.tolist(), fill=_random_ground(rng), width=width)
    _grass(pen, rng, side, int(rng.integers(0, 14)))
    for _ in range(rng.integers(0, 5)):
        _foreign_leaf(pen, rng, rng.uniform(0, side, 2), side)


def _grass(pen: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, count: int) -> None:
    for _ in range(count):
        x, y = rng.uniform(0, side), rng.uniform(0.3, 1.1) * side
        lean, height = rng.normal(0.0, 0.12) * side, rng.uniform(0.2, 0.6) * side
        width = rng.uniform(0.008, 0.02) * side
        tint = color(rng.normal(0.25, 0.04), rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
        middle = (x + 0.3 * lean, y - 0.6 * height)
        pen.polygon(
            [x - width, y, middle[0] - 0.7 * width, middle[1], x + lean, y - height,
             middle[0] + 0.7 * width, middle[1], x + width, y],
            fill=tint,
        )  # fmt: skip


def _foreign_leaf(pen: ImageDraw.ImageDraw, rng: np.random.Generator, base: Points, side: int) -> None:
    outline = blade(ELLIPTIC if rng.random() < 0.5 else LANCEOLATE, 16)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.35) * side
    cos, sin = length * np.cos(angle), length * np.sin(angle)
    placed = outline @ np.array([[cos, sin], [-sin, cos]]) + base
    tint = color(rng.normal(0.22, 0.08), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.65))
    pen.polygon(placed.ravel().tolist(), fill=tint, outline=shade(tint, -0.3))


def _occluders(pen: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """A few blades and foreign leaves in front of the plant, entering from the border."""
    _grass(pen, rng, side, int(rng.integers(0, 4)))
    for _ in range(rng.integers(0, 3)):
        base = rng.uniform(0, side, 2)
        base[rng.integers(2)] = rng.choice([-0.05, 1.05]) * side
        _foreign_leaf(pen, rng, base, side)


@dataclass(frozen=True)
class _Leaf:
    """A leaf to paint, with its axes and base in pixels."""

    frame: Points  # (3, 2)
    bend: float
    narrowing: float
    light: float


def _frame(base: Points, angle: float, length: float, view: Points) -> Points:
    """Axes of an organ seen through the view (2, 2), and its base: (3, 2)."""
    cos, sin = length * np.cos(angle), length * np.sin(angle)
    return np.concatenate([np.array([[cos, sin], [-sin, cos]]) @ view, base[None]])


def _squeeze(rng: np.random.Generator, least: float) -> Points:
    """A foreshortening along a random direction: (2, 2)."""
    angle, amount = rng.uniform(0, np.pi), rng.uniform(least, 1.0)
    axis = np.array([np.cos(angle), np.sin(angle)])
    return np.eye(2) - (1 - amount) * np.outer(axis, axis)


def _plant(canvas: Image.Image, species: Species, rng: np.random.Generator, side: int) -> None:
    """Stems to all four quarters with leaves at their nodes, most of them ending in a flower."""
    colors = palette(species, rng)
    view = _squeeze(rng, 0.75)
    turn = rng.normal(0.0, 0.5)
    scale = rng.uniform(0.95, 1.3) * side
    root = np.array([0.5, 0.5]) + 0.42 * np.array([np.sin(turn), np.cos(turn)]) * rng.uniform(0, 1)
    quarters = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    tips = quarters + rng.uniform(-0.16, 0.16, (4, 2))
    blooming = rng.permutation(4) < rng.integers(3, 5)
    at_node = {"alternate": 1, "opposite": 2, "whorled": 3}[species.arrangement]
    leaf_length = 0.3 if species.division == "simple" else 0.36
    stems: list[Points] = []
    leaves: list[_Leaf] = []
    flowers: list[Points] = []
    for tip, blooms in zip(tips, blooming, strict=True):
        elbow = (root + tip) / 2 + rng.normal(0.0, 0.06, 2)
        step = np.linspace(0.0, 1.0, 9)[:, None]
        stem = (1 - step) ** 2 * root + 2 * step * (1 - step) * elbow + step**2 * tip
        stems.append(stem * side)
        heading = float(np.arctan2(*(tip - root)[::-1]))
        for node, place in enumerate(np.linspace(0.3, 0.95, 4 if at_node == 1 else 2)):
            spot = stem[round(place * 8)] * side
            for k in range(at_node):
                away = ((node + k) % 2 * 2 - 1) * 1.0 if at_node < 3 else (k - 1) * 1.2
                angle = heading + away + rng.normal(0.0, 0.25)
                length = leaf_length * scale * rng.uniform(0.8, 1.15)
                leaves.append(
                    _Leaf(
                        _frame(spot, angle, length, view),
                        float(rng.normal(0.0, 0.16)), float(rng.uniform(0.75, 1.1)),
                        float(rng.normal(0.0, 0.12)),
                    )
                )  # fmt: skip
        if blooms:
            radius = rng.uniform(0.14, 0.19) * scale
            tilt = _squeeze(rng, 0.65)
            flowers.append(_frame(tip * side, rng.uniform(0, 2 * np.pi), radius, tilt))
    _shadow(canvas, leaves, rng, side)
    pen = ImageDraw.Draw(canvas)
    for stem in stems:
        pen.line(stem.ravel().tolist(), fill=shade(colors.leaf, -0.25), width=max(1, side // 80))
    for position in rng.permutation(len(leaves)):
        leaf = leaves[position]
        own = tinted(colors, rng)
        paint_leaf(pen, species, own, leaf.frame, bend=leaf.bend, narrowing=leaf.narrowing, light=leaf.light)
    for flower in flowers:
        paint_flower(pen, species, tinted(colors, rng), flower, rng)


def _shadow(canvas: Image.Image, leaves: list[_Leaf], rng: np.random.Generator, side: int) -> None:
    """Darken the ground where the leaves keep the light away."""
    small = side // 4
    mask = Image.new("L", (small, small))
    pen = ImageDraw.Draw(mask)
    offset = rng.uniform(-0.06, 0.06, 2) * side
    for leaf in leaves:
        across, along, base = leaf.frame[1] * 0.25, leaf.frame[0], leaf.frame[2] + offset
        corners = np.stack([base, base + along / 2 + across, base + along, base + along / 2 - across])
        pen.polygon((corners / 4).ravel().tolist(), fill=int(rng.integers(90, 170)))
    mask = mask.filter(ImageFilter.BoxBlur(1.5)).resize((side, side), Image.Resampling.BILINEAR)
    canvas.paste((10, 12, 16), (0, 0, side, side), mask)


def _light(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, light color, a gradient across the picture, soft shade and sensor noise."""
    side = picture.shape[0]
    gain = np.exp(rng.normal(0.06, 0.09, 3) + rng.normal(0.0, 0.15)).astype(np.float32)
    slope = rng.normal(0.0, 0.25, 2)
    ramp = np.linspace(-1.0, 1.0, side, dtype=np.float32)
    gradient = 1 + slope[0] * ramp[:, None] + slope[1] * ramp[None]
    dapple = 1 - rng.uniform(0.0, 0.45) / (1 + np.exp(-4 * (_smooth(rng, 4, side) - 0.5)))
    lit = picture * (gradient.clip(0.45, 1.6) * dapple).astype(np.float32)[..., None] * gain
    noise = rng.standard_normal((side, side, 3), dtype=np.float32) * rng.uniform(1.0, 6.0)
    exposed: NDArray[np.uint8] = (lit + noise).clip(0, 255).astype(np.uint8)
    return exposed
