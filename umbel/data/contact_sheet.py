"""A contact sheet: photographs of each class in a row under its name, or all in one block without classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE, GAP, TITLE = 112, 6, 20
FONT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Photographs under one title."""

    title: str
    photographs: Sequence[Tensor]  # each (3, H, W) uint8


def contact_sheet(rows: Sequence[Row], *, columns: int) -> Image.Image:
    """Draw the sheet; a row of more than `columns` photographs goes on in the next line."""
    lines = [-(-len(row.photographs) // columns) for row in rows]
    height = sum(TITLE + count * (TILE + GAP) for count in lines) + GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = label_font()
    top = GAP
    for row, count in zip(rows, lines, strict=True):
        pen.text((GAP, top), shortened(row.title, font, sheet.width - 2 * GAP), fill="black", font=font)
        top += TITLE
        for number, photograph in enumerate(row.photographs):
            place = (GAP + number % columns * (TILE + GAP), top + number // columns * (TILE + GAP))
            sheet.paste(tile(photograph), place)
        top += count * (TILE + GAP)
    return sheet


def tile(photograph: Tensor) -> Image.Image:
    """The whole photograph, shrunk into a gray square."""
    image = Image.fromarray(np.ascontiguousarray(photograph.permute(1, 2, 0).numpy()))
    image.thumbnail((TILE, TILE), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    square.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return square


def label_font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: species' names need more letters than Pillow's own font has."""
    return ImageFont.truetype(FONT, 13)


@functools.cache
def letters() -> frozenset[int]:
    """The characters that the font has."""
    return frozenset(FT2Font(FONT).get_charmap())


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text on one line, cut to a width in pixels; characters that the font lacks become question marks."""
    shown = "".join(letter if ord(letter) in letters() else "?" for letter in " ".join(text.split()))
    while shown and font.getlength(shown) > width:
        shown = shown.removesuffix("...")[:-1] + "..." if shown != "..." else ""
    return shown
