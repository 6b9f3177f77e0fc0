"""A sheet that shows what augmentation does: photographs with their boxes, their views, and what was done to each.

One policy is shown large, with local views in two lines; of several each has a line, the same boxes above each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from umbel.augment.policy import words_of
from umbel.augment.views import GLOBAL_VIEWS, Views

SMALL, GAP, LINE, BAR, NAME = 124, 8, 13, 3, 17
RED, BLUE, INK, FAINT = (230, 60, 50), (40, 110, 220), (30, 30, 30), (110, 110, 110)
FONT = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 10)
TITLE = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 12)
LEGEND = "Global views and their boxes are red, local ones blue."
JITTER = " Jitter: factors of b brightness, c contrast and s saturation, h turn of the hue, and their order."


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A view of a photograph."""

    image: Image.Image
    box: tuple[int, int, int, int]  # top, left, height, width
    color: tuple[int, int, int]
    words: list[str]  # what was done to it


def views_sheet(photographs: Sequence[Tensor], policies: Mapping[str, Views]) -> Image.Image:
    """Draw the sheet.

    Photograph n is shown as at position 0 of epoch n: there all policies have the same boxes and flips, which elsewhere
    depend on how many numbers a policy draws.

    Args:
        photographs: N tensors (3, H_i, W_i) uint8.
        policies: what makes the views, by the name to be shown; alike but for their policies.

    Returns:
        an RGB image.
    """
    shown = [[_views(p, number, v) for v in policies.values()] for number, p in enumerate(photographs)]
    # As high as the longest caption of the policy, so that everything stands in lines.
    captions = [
        LINE * max(len(_lines(view.words, SMALL)) for block in shown for view in block[row])
        for row in range(len(policies))
    ]
    height = 2 * (SMALL + BAR) + captions[0] + GAP - BAR if len(policies) == 1 else 2 * SMALL
    firsts = [_with_boxes(p, block[0], height) for p, block in zip(photographs, shown, strict=True)]
    column = max(first.width for first in firsts) + GAP
    if len(policies) == 1:
        rows = [_large(f, column, block[0], captions[0]) for f, block in zip(firsts, shown, strict=True)]
    else:
        names = list(policies)
        rows = [_compared(f, column, block, names, captions) for f, block in zip(firsts, shown, strict=True)]
    width = max(row.width for row in rows) + 2 * GAP
    jittered = any(words.startswith("jitter") for block in shown for part in block for v in part for words in v.words)
    legend = _lines([LEGEND + JITTER * jittered], width - 2 * GAP)
    title = f"Policy {next(iter(policies))}" if len(policies) == 1 else "The same boxes by several policies"
    top = 2 * GAP + LINE * (len(legend) + 1) + GAP
    sheet = Image.new("RGB", (width, top + sum(row.height + 2 * GAP for row in rows)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, fill=INK, font=TITLE)
    _write(pen, legend, GAP, GAP + LINE + 4, FAINT)
    for row in rows:
        sheet.paste(row, (GAP, top))
        top += row.height + 2 * GAP
    return sheet


def _large(first: Image.Image, left: int, views: Sequence[Shown], caption: int) -> Image.Image:
    """The photograph, and from `left` on its global views and its local views in two lines, all of one height."""
    side, columns = first.height, -(-len(views[GLOBAL_VIEWS:]) // 2)
    width = left + GLOBAL_VIEWS * (side + GAP) + columns * (SMALL + GAP)
    row = Image.new("RGB", (width, side + BAR + caption), "white")
    row.paste(first, (0, 0))
    for view in views[:GLOBAL_VIEWS]:
        _place(row, view, left, 0, side)
        left += side + GAP
    for number, view in enumerate(views[GLOBAL_VIEWS:]):
        line, column = divmod(number, columns)
        _place(row, view, left + column * (SMALL + GAP), line * (SMALL + BAR + caption + GAP), SMALL)
    return row


def _compared(
    first: Image.Image, left: int, policies: Sequence[Sequence[Shown]], names: Sequence[str], captions: Sequence[int]
) -> Image.Image:
    """The photograph, and from `left` on a line of views for each policy."""
    heights = [NAME + SMALL + BAR + caption + GAP for caption in captions]
    row = Image.new("RGB", (left + len(policies[0]) * (SMALL + GAP), sum(heights)), "white")
    row.paste(first, (0, NAME))
    pen, top = ImageDraw.Draw(row), 0
    for name, views, height in zip(names, policies, heights, strict=True):
        pen.text((left, top), name, fill=INK, font=TITLE)
        for number, view in enumerate(views):
            _place(row, view, left + number * (SMALL + GAP), top + NAME, SMALL)
        top += height
    return row


def _views(photograph: Tensor, number: int, views: Views) -> list[Shown]:
    """All views of a photograph at position 0 of epoch `number`."""
    config, size = views.config, np.array([photograph.shape[1:]])
    found = []
    for view in range(GLOBAL_VIEWS + config.local_views):
        is_global = view < GLOBAL_VIEWS
        side = config.global_size if is_global else config.local_size
        draws = views.draw(size, np.array([number]), np.array([0]), view)
        made = views.make(photograph[None], [draws], side)[0]
        levels = (made.clamp(0, 1) * 255).round().permute(1, 2, 0).to("cpu").numpy().astype(np.uint8)
        words = ["mirrored"] * bool(draws.flip[0]) + words_of(views.operations, draws.policy, view, side)
        box = tuple(draws.boxes[0].tolist())
        found.append(
            Shown(image=Image.fromarray(levels), box=box, color=RED if is_global else BLUE, words=words or ["as it is"])
        )
    return found


def _with_boxes(photograph: Tensor, views: Sequence[Shown], height: int) -> Image.Image:
    """The photograph, so high, with the views' boxes on it."""
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    scale = height / image.height
    # A panorama must not push the views off the sheet.
    shown = image.resize((min(max(1, round(image.width * scale)), 2 * height), height), Image.Resampling.BICUBIC)
    across = shown.width / image.width
    pen = ImageDraw.Draw(shown)
    for view in views:
        top, left, high, wide = view.box
        corners = (left * across, top * scale, (left + wide) * across - 1, (top + high) * scale - 1)
        pen.rectangle(corners, outline=view.color, width=2 if view.color == RED else 1)
    return shown


def _place(sheet: Image.Image, view: Shown, left: int, top: int, side: int) -> None:
    """A view with its caption; much enlarged without smoothing, so that its pixels stay honest."""
    resample = Image.Resampling.NEAREST if side >= 2 * view.image.width else Image.Resampling.BICUBIC
    sheet.paste(view.image.resize((side, side), resample), (left, top))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left, top + side, left + side - 1, top + side + BAR - 1), fill=view.color)
    _write(pen, _lines(view.words, side), left, top + side + BAR, INK)


def _write(pen: ImageDraw.ImageDraw, lines: Iterable[str], left: int, top: int, color: tuple[int, int, int]) -> None:
    for number, line in enumerate(lines):
        pen.text((left, top + number * LINE), line, fill=color, font=FONT)


def _lines(texts: Iterable[str], width: int) -> list[str]:
    """Each text from a new line on, broken between words where it is wider than `width` pixels."""
    lines: list[str] = []
    for text in texts:
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and FONT.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines
