"""Leaves and flowers of a species as polygons in the unit frame, and their painting.

Leaf outlines follow the superformula (J. Gielis, American Journal of Botany 90, 2003); a leaf or
petal lies along the x axis from its base at the origin to its tip near (1, 0).
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from umbel.data.synthetic_species import Outline, Species

Points = NDArray[np.float64]  # (..., 2)
Color = tuple[int, int, int]

_PETAL_HUES = {"white": (0.14, 0.08), "yellow": (0.14, 0.72), "pink": (0.93, 0.5), "violet": (0.77, 0.5)}
_LEAF_HUES = {"grass-green": 0.29, "yellow-green": 0.24, "blue-green": 0.36}


def color(hue: float, saturation: float, value: float) -> Color:
    """An 8-bit color from hue (wrapping around), saturation and value (both clipped)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return int(255 * red), int(255 * green), int(255 * blue)


def shade(base: Color, amount: float) -> Color:
    """`base` moved toward white (amount > 0) or black (amount < 0)."""
    target, share = (255, amount) if amount > 0 else (0, -amount)
    red, green, blue = (int(c + (target - c) * share) for c in base)
    return red, green, blue


def rim(outline: Outline, phi: NDArray[np.float64]) -> Points:
    """Points of the superformula curve at the polar angles `phi` (N,): (N, 2)."""

    def curve(angle: NDArray[np.float64]) -> Points:
        quarter = outline.m * angle / 4
        total = np.abs(np.cos(quarter)) ** outline.n2 + np.abs(np.sin(quarter)) ** outline.n2
        radius = total ** (-1 / outline.n1)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    whole = curve(np.linspace(-np.pi, np.pi, 721))
    stretch = outline.width * (whole[:, 0].max() - whole[0, 0]) / np.ptp(whole[:, 1])
    swept = whole[:, 0] - outline.sweep * stretch * np.abs(whole[:, 1])
    points = curve(phi) * (1.0, stretch)
    points[:, 0] -= outline.sweep * np.abs(points[:, 1]) + whole[0, 0]
    scaled: Points = points / (swept.max() - whole[0, 0])
    return scaled


def blade(outline: Outline, points: int) -> Points:
    """The closed outline from the base around the tip: (2 * points, 2)."""
    curve = rim(outline, np.linspace(-np.pi, np.pi, 721))
    # Even spacing along the arc, or teeth would bunch where the angle moves slowly.
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    even = np.linspace(0.0, arc[-1], 2 * points)
    return np.stack([np.interp(even, arc, curve[:, k]) for k in (0, 1)], axis=1)


def toothed(curve: Points, species: Species) -> Points:
    """`curve` (2P, 2) with the species' margin cut into it."""
    if species.margin == "entire":
        return curve
    # Position along each side, 0 at the base and 1 at the tip.
    along = 1.0 - np.abs(np.linspace(-1.0, 1.0, len(curve)))
    phase = along * (species.teeth + 0.5)
    if species.margin == "serrate":
        wave = phase % 1.0
    elif species.margin == "crenate":
        wave = np.abs(np.sin(np.pi * phase))
    else:
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    tangent = np.gradient(curve, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    depth = species.tooth_depth * species.outline.width / 2 * np.sqrt(np.sin(np.pi * along).clip(0))
    moved: Points = curve + normal * (depth * (wave - 0.6))[:, None]
    return moved


def veins(species: Species) -> Points:
    """Vein center lines of one blade: (V, 5, 2)."""
    curve = blade(species.outline, 90)
    step = np.linspace(0.0, 1.0, 5)

    def half_width(x: NDArray[np.float64]) -> NDArray[np.float64]:
        near = np.abs(curve[:, 0] - x[:, None]) < 0.04
        widest: NDArray[np.float64] = np.where(near, np.abs(curve[:, 1]), 0.0).max(axis=1)
        return widest

    lines = [np.stack([0.94 * step, np.zeros(5)], axis=1)]
    if species.venation == "palmate":
        # Lobe tips lie at multiples of 2 pi / m, so these veins run into them.
        turns = (np.arange(species.veins) - (species.veins - 1) / 2) / species.veins
        lines += [step[:, None] * 0.9 * end for end in rim(species.outline, 2 * np.pi * turns)]
    elif species.venation == "parallel":
        x = 0.03 + 0.92 * step
        for offset in np.linspace(-0.72, 0.72, species.veins) if species.veins > 1 else ():
            lines.append(np.stack([x, offset * half_width(x)], axis=1))
    else:
        start = np.linspace(0.12, 0.72, species.veins)
        reach = 0.8 * half_width(start + 0.08)
        for x0, y0 in zip(start, reach, strict=True):
            for side in (-1.0, 1.0):
                rise = side * y0 * step
                lines.append(np.stack([x0 + 0.55 * y0 * (step + step**2) / 1.5, rise], axis=1))
    return np.stack(lines)


def _placements(species: Species) -> list[tuple[float, float, float, float]]:
    """Where the leaflets of a leaf sit: (x, y, angle, length) each."""
    if species.division == "simple":
        return [(0.0, 0.0, 0.0, 1.0)]
    if species.division == "trifoliate":
        return [(0.3, 0.0, -1.25, 0.62), (0.3, 0.0, 1.25, 0.62), (0.36, 0.0, 0.0, 0.7)]
    pairs = species.leaflets // 2
    length = 0.45 - 0.16 * species.outline.width  # broad leaflets would hide one another
    placed = [(0.7, 0.0, 0.0, length)]
    for k in range(pairs):
        placed += [(0.16 + 0.5 * k / (pairs - 1), 0.0, side * 1.15, length) for side in (-1, 1)]
    return placed


@dataclass(frozen=True)
class LeafForm:
    """One leaf in the unit frame: K leaflets, each with an outline, veins and pale marks."""

    outlines: Points  # (K, 2P, 2)
    inner: Points  # (K, 2P, 2): the green field of a pale-edged blade
    lines: Points  # (K, V, 5, 2)
    marks: Points  # (K, J, Q, 2), J = 0 without marks


@lru_cache(maxsize=64)
def leaf_form(species: Species) -> LeafForm:
    """The leaf of a species; computed once, then bent and placed for each individual."""
    points = 56 if species.division == "simple" else 30
    outline = toothed(blade(species.outline, points), species)
    center = np.array([0.48, 0.0])
    inner = center + (outline - center) * (0.8, 0.62)
    lines = veins(species)
    marks = np.zeros((0, 8, 2))
    if species.marking == "spotted":
        turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        spot = 0.055 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        half = species.outline.width / 2
        places = [(0.22, 0.3), (0.24, -0.42), (0.44, 0.56), (0.47, -0.42), (0.67, 0.4), (0.7, -0.36)]
        marks = np.stack([np.array([x, y * half]) + spot for x, y in places])
    elif species.marking == "banded":
        band = blade(species.outline, 24) * (1.0, 0.94)
        # Clipping the outline in x leaves just the band between the two limits.
        band[:, 0] = band[:, 0].clip(0.4, 0.64) + 0.25 * np.abs(band[:, 1])
        marks = band[None]
    parts: list[list[Points]] = [[], [], [], []]
    for x, y, angle, length in _placements(species):
        cos, sin = length * np.cos(angle), length * np.sin(angle)
        turn_matrix = np.array([[cos, sin], [-sin, cos]])
        for part, array in zip(parts, (outline, inner, lines, marks), strict=True):
            part.append(array @ turn_matrix + (x, y))
    return LeafForm(*(np.stack(part) for part in parts))


@lru_cache(maxsize=64)
def petal_form(species: Species) -> Points:
    """One petal as a closed outline: (40, 2)."""
    # Denser toward the tip, where the outline turns fastest.
    t = 1 - np.linspace(1.0, 0.0, 20) ** 2
    swell = t ** (0.9 - 0.3 * species.petal_point) * (1 - t) ** (0.3 + 0.7 * species.petal_point)
    y = swell / swell.max() * species.petal_width / 2
    cut = species.petal_notch * t**3 * (1 - 2 * y / species.petal_width) ** 3
    upper = np.stack([t - cut, y], axis=1)
    return np.concatenate([upper, upper[::-1] * (1.0, -1.0)])


@dataclass(frozen=True)
class Palette:
    """The colors of one individual."""

    leaf: Color
    vein: Color
    pale: Color
    petal: Color
    disc: Color


def palette(species: Species, rng: np.random.Generator) -> Palette:
    """Colors drawn around the species' hues; the spread makes neighboring hues overlap."""
    jitter = rng.normal(0.0, 1.0, 7)
    leaf = color(_LEAF_HUES[species.leaf_hue] + 0.045 * jitter[0], 0.55 + 0.12 * jitter[1], 0.57 + 0.09 * jitter[2])
    hue, saturation = _PETAL_HUES[species.petal_hue]
    petal = color(hue + 0.045 * jitter[3], saturation + 0.15 * jitter[4], 0.9 + 0.06 * jitter[5])
    disc = (
        color(0.12 + 0.02 * jitter[6], 0.8, 0.85)
        if species.disc_tone == "yellow"
        else color(0.05 + 0.03 * jitter[6], 0.6, 0.25)
    )
    return Palette(leaf, shade(leaf, species.vein_contrast), shade(leaf, 0.68), petal, disc)


def tinted(colors: Palette, rng: np.random.Generator) -> Palette:
    """The palette of one organ: leaves and flowers of an individual differ in age and health.

    This variation within the picture weakens color as a cue to the species without making it one
    to the individual, which self-supervised training could use as a shortcut.
    """
    gains = np.exp(rng.normal(0.0, 0.13, 3)).tolist()

    def tint(base: Color) -> Color:
        red, green, blue = (min(255, int(c * gain)) for c, gain in zip(base, gains, strict=True))
        return red, green, blue

    return Palette(tint(colors.leaf), tint(colors.vein), tint(colors.pale), tint(colors.petal), tint(colors.disc))


def paint_leaf(
    pen: ImageDraw.ImageDraw, species: Species, colors: Palette, frame: Points, *,
    bend: float, narrowing: float, light: float,
) -> None:  # fmt: skip
    """Paint one leaf; `frame` (3, 2) holds the images of the two axes and the base, in pixels."""
    form = leaf_form(species)

    def place(points: Points) -> Points:
        x, y = points[..., 0], points[..., 1] * narrowing
        bent = np.stack([x - 0.3 * abs(bend) * x * x, y + bend * x * x], axis=-1)
        moved: Points = bent @ frame[:2] + frame[2]
        return moved

    length = float(np.hypot(*frame[0]))
    stroke = max(1, round(length * 0.026))
    tone, edge = shade(colors.leaf, light), shade(colors.leaf, -0.5)
    pale = shade(colors.pale, min(light, 0.0))
    if species.division != "simple":
        stem = place(np.array([[0.0, 0.0], [0.35, 0.0], [0.7, 0.0]]))
        last = 3 if species.division == "pinnate" else 2
        pen.line(stem[:last].ravel().tolist(), fill=edge, width=stroke + 1)
    outlines, lines, marks = place(form.outlines), place(form.lines), place(form.marks)
    edged = species.marking == "pale-edged"
    fields = place(form.inner) if edged else outlines
    half = outlines.shape[1] // 2
    for leaflet, field, strokes, spots in zip(outlines, fields, lines, marks, strict=True):
        pen.polygon(leaflet.ravel().tolist(), fill=pale if edged else tone, outline=edge)
        if edged:
            pen.polygon(field.ravel().tolist(), fill=tone)
        # The far half of a folded blade catches less light.
        pen.polygon(field[half:].ravel().tolist(), fill=shade(tone, -0.16))
        for spot in spots:
            pen.polygon(spot.ravel().tolist(), fill=pale)
        for line in strokes:
            pen.line(line.ravel().tolist(), fill=colors.vein, width=stroke)


def paint_flower(
    pen: ImageDraw.ImageDraw, species: Species, colors: Palette, frame: Points,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint one flower; `frame` (3, 2) holds the images of the two axes and the center."""
    count = species.petals
    angle = 2 * np.pi * (np.arange(count) + rng.normal(0.0, 0.05, count)) / count
    length = 1.0 + rng.normal(0.0, 0.04, count)
    cos, sin = length * np.cos(angle), length * np.sin(angle)
    turns = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)  # (N, 2, 2)
    petals = petal_form(species) @ turns @ frame[:2] + frame[2]  # (N, 40, 2)
    streaks = np.array([[0.15, 0.0], [0.6, 0.0]]) @ turns @ frame[:2] + frame[2]
    radius = float(np.hypot(*frame[0]))
    edge, fold = shade(colors.petal, -0.55), shade(colors.petal, -0.25)
    width = max(1, round(radius * 0.04))
    for petal, streak in zip(petals, streaks, strict=True):
        outline = petal.ravel().tolist()
        pen.polygon(outline, fill=colors.petal)
        pen.line(outline + outline[:2], fill=edge, width=width)
        pen.line(streak.ravel().tolist(), fill=fold, width=width)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for size, amount in ((1.0, -0.45), (0.84, 0.0), (0.4, 0.25)):
        disc = species.disc * size * ring @ frame[:2] + frame[2]
        pen.polygon(disc.ravel().tolist(), fill=shade(colors.disc, amount))
