"""The model card of an export, README.md in its folder: what it is, from what, how good, for what, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umbel import __version__
from umbel.backbones import Backbone
from umbel.evaluation.exporting.card_data import NOT_STATED, data_lines, figure_lines, recipe_text, training_places
from umbel.evaluation.exporting.self_test import SelfTest
from umbel.evaluation.reading import preprocessing, weights_sha256

USE = (
    "Features of photographs of plants: species by few labeled examples, nearest neighbors, search, clustering, or as "
    "the beginning of a classifier. People who know plants should check what rests on an answer."
)
LIMITS = (
    "It has seen what its training data show: species, regions, seasons, organs and cameras that are rare there are "
    "known less well. What is no plant, or no species of the classes, may be answered with confidence all the same. An "
    "answer is no evidence that a plant is edible, medicinal, protected or harmless. Figures "
    "hold for the photographs that they were measured on."
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the card that one format has alone."""

    title: str
    lines: Sequence[str]


def model_card(
    backbone: Backbone, run: Path, *, kind: str, usage: str, test: SelfTest, sections: Sequence[Section] = ()
) -> str:
    """The card's text, in Markdown.

    Args:
        run: the run folder; a folder without recipe and figures is one whose card says so.
        kind: the format, in words.
        usage: code that uses it.
    """
    card = backbone.card
    places = training_places(run)
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    parts = [
        Section(
            title=f"A plant backbone of Umbel as {kind}",
            lines=[
                f"{card.architecture}, {parameters / 1e6:.1f} M parameters, images of {card.image_size} x "
                f"{card.image_size} pixels, features of {backbone.dim} numbers. Made by Umbel "
                f"{__version__}; the weights' sha256 is {weights_sha256(backbone)}.",
                "",
                "```",
                *usage.splitlines(),
                "```",
            ],
        ),
        *sections,
        Section(
            title="Data",
            lines=data_lines(places) or [f"What it was trained on is {NOT_STATED}, and so are the terms."],
        ),
        Section(title="Recipe", lines=[recipe_text(run)]),
        Section(title="Figures", lines=figure_lines(run)),
        Section(title="Preprocessing", lines=[f"{preprocessing(backbone)}."]),
        Section(title="Intended use", lines=[USE]),
        Section(title="Limits", lines=[LIMITS]),
        Section(
            title="Self-test",
            lines=[
                f"Largest difference of features from the torch model: {test.random:.1e} on random images, "
                f"{test.natural:.1e} on natural-looking ones ({test.images} images, features up to "
                f"{test.largest_feature:.3g}; at most {test.bound:g} is allowed). `sha256sum -c SHA256SUMS` checks "
                "the files.",
            ],
        ),
    ]
    texts = [
        f"{'#' if number == 0 else '##'} {part.title}\n\n" + "\n".join(part.lines) for number, part in enumerate(parts)
    ]
    return "\n\n".join(texts) + "\n"
