"""A map of the features: photographs that are alike to the backbone lie together; a pointer shows the photograph.

It works without a script. Species differ by shape and color; a table tells in words what the map shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.knn import neighbors
from umbel.evaluation.report_album import Album, class_name
from umbel.evaluation.report_html import Markup, aside, join, table, tag
from umbel.evaluation.report_plane import on_plane
from umbel.evaluation.report_words import percent
from umbel.random_stream import Purpose, stream

POINTS, MARKED, NEAREST = 1000, 8, 10
SIDE, QUALITY = 80, 60


def maps(sets: Mapping[str, Embeddings], album: Album, *, seed: int) -> Markup:
    """A map of each set of features of the same photographs, drawn by the seed."""
    first = next(iter(sets.values()))
    rows = np.sort(stream(seed, 0, Purpose.ORDER).permutation(len(first))[:POINTS])
    marked = most_frequent(first.label[rows])
    thumbnails = [_thumbnail(album.thumbnail(first.keys[row], SIDE)) for row in rows]
    drawn: list[Markup] = []
    for name, embeddings in sets.items():
        chosen = embeddings.take(rows)
        places = on_plane(chosen.features, seed=seed)
        heading = [tag("h3", name)] if len(sets) > 1 else []
        if places is None:
            told = aside("There is no map: there are fewer than 10 photographs, or all their features are alike.")
        else:
            told = join(_map(name, chosen, places, marked), _in_words(name, chosen, marked))
        drawn.append(tag("div", *heading, told, class_="one-map"))
    # Each thumbnail stands in the page once, however many maps show it.
    properties = ";".join(f"--t{number}:url({source})" for number, source in enumerate(thumbnails) if source)
    told_above = (
        f"{len(rows):,} of {len(first):,} photographs, drawn by the seed: 50 principal components, then "
        "t\N{NON-BREAKING HYPHEN}SNE. "
        "Photographs that lie together are alike to the backbone; distances between far groups mean nothing. Point at "
        "a mark to see its photograph; the tabulator key goes to one photograph of each marked species."
    )
    legend = tag("ul", *(_key(first, label, place) for place, label in enumerate(marked)), class_="map-keys")
    return join(tag("p", told_above), legend, tag("div", *drawn, class_="embedding-maps", style=properties))


def most_frequent(labels: np.ndarray) -> list[int]:
    """The labels that most photographs have, at most 8; among equals the lowest."""
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    return [int(label) for label in found[np.argsort(-counts, kind="stable")][:MARKED]]


def _key(embeddings: Embeddings, label: int, place: int) -> Markup:
    return tag("li", tag("i", class_=f"dot g{place}", aria_hidden="true"), class_name(embeddings.classes, label))


def _map(name: str, chosen: Embeddings, places: np.ndarray, marked: list[int]) -> Markup:
    low, span = places.min(0), np.ptp(places, axis=0).clip(1e-6)
    across = (places - low) / span * 100
    middles = {label: _middle(places, chosen.label == label) for label in marked}
    dots = []
    # Unmarked ones first, so that the marks lie above them.
    order = np.argsort(np.isin(chosen.label, marked), kind="stable")
    for row in order.tolist():
        label = int(chosen.label[row])
        x, y = across[row]
        known = class_name(chosen.classes, label) if label >= 0 else "no label"
        kind = f"dot g{marked.index(label)}" if label in marked else "dot"
        # The photograph opens towards the middle of the map.
        kind += f"{' leftwards' if x > 50 else ''}{' upwards' if y > 50 else ''}"
        reached = {}
        if middles.get(label) == row:
            reached = {"tabindex": "0", "role": "img", "aria_label": f"{known}: a photograph in the middle of its own"}
        style = f"left:{x:.1f}%;top:{y:.1f}%;--t:var(--t{row})"
        dots.append(tag("i", class_=kind, data_n=known, style=style, **reached))
    box = {"class_": "map-box", "role": "group", "aria_label": f"Map of the features of {len(chosen):,} photographs"}
    shape = f"aspect-ratio:{np.clip(span[0] / span[1], 0.7, 1.5):.3f}"
    return tag("div", tag("div", *dots, class_="map-inside", style=shape), **box)


def _middle(places: np.ndarray, own: np.ndarray) -> int:
    """The row of the photograph nearest to the median place of its species."""
    rows = np.flatnonzero(own)
    apart = np.linalg.norm(places[rows] - np.median(places[rows], axis=0), axis=1)
    return int(rows[apart.argmin()])


def _in_words(name: str, chosen: Embeddings, marked: list[int]) -> Markup:
    """What the map shows of the marked species, from the features themselves."""
    _, near = neighbors(chosen.features, k=NEAREST)
    rows = []
    for label in marked:
        found = chosen.label[near[chosen.label == label]].ravel()
        others, counts = np.unique(found[(found != label) & (found >= 0)], return_counts=True)
        other = class_name(chosen.classes, int(others[counts.argmax()])) if len(others) else "–"
        own = percent(float((found == label).mean()))
        rows.append((class_name(chosen.classes, label), str(int((chosen.label == label).sum())), own, other))
    if not rows:
        return aside("No photograph of the map has a label.")
    head = ("Species", "Photographs", "Own species nearby", "Other species nearby")
    caption = (
        f"Share of the {NEAREST} nearest photographs of the map, by cosine, that are of the same species, and the "
    )
    caption += "other species that is most frequent among them."
    words = table(head, rows, name=f"The map in words: {name}", caption=caption)
    return tag("details", tag("summary", "The map in words"), words)


def _thumbnail(image: Image.Image | None) -> str:
    if image is None:
        return ""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
