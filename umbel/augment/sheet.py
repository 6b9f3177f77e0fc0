"""A sheet that shows what augmentation does: each photograph with its boxes, then its global and local views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from umbel.augment.views import GLOBAL_VIEWS, ViewDraws

ROW, GAP, LABEL = 224, 8, 16
GLOBAL_COLOR, LOCAL_COLOR = (230, 60, 50), (40, 110, 220)


def views_sheet(
    photographs: Sequence[Tensor], draws: Sequence[Sequence[ViewDraws]], views: Sequence[Sequence[Tensor]]
) -> Image.Image:
    """Draw the sheet.

    Args:
        photographs: N tensors (3, H_i, W_i) uint8.
        draws: for each photograph its V views' draws, of one row each.
        views: for each photograph its V views (3, S, S) in [0, 1], not normalized, global ones first.

    Returns:
        an RGB image; a photograph takes a row of ROW pixels, local views stand in two lines.
    """
    rows = [_row(photograph, d, v) for photograph, d, v in zip(photographs, draws, views, strict=True)]
    width = max(row.width for row in rows) + 2 * GAP
    sheet = Image.new("RGB", (width, LABEL + GAP + len(rows) * (ROW + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 4), "photograph, global boxes red, local boxes blue", fill="black")
    for number, row in enumerate(rows):
        sheet.paste(row, (GAP, LABEL + GAP + number * (ROW + GAP)))
    return sheet


def _row(photograph: Tensor, draws: Sequence[ViewDraws], views: Sequence[Tensor]) -> Image.Image:
    first = _with_boxes(photograph, draws)
    globals_ = [_square(view, ROW) for view in views[:GLOBAL_VIEWS]]
    small = (ROW - GAP) // 2
    locals_ = [_square(view, small) for view in views[GLOBAL_VIEWS:]]
    columns = -(-len(locals_) // 2)
    row = Image.new("RGB", (first.width + len(globals_) * (ROW + GAP) + columns * (small + GAP), ROW), "white")
    row.paste(first, (0, 0))
    left = first.width + GAP
    for view in globals_:
        row.paste(view, (left, 0))
        left += ROW + GAP
    for number, view in enumerate(locals_):
        row.paste(view, (left + (number % columns) * (small + GAP), (number // columns) * (small + GAP)))
    return row


def _with_boxes(photograph: Tensor, draws: Sequence[ViewDraws]) -> Image.Image:
    """The photograph at the row's height, with the views' boxes on it."""
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    scale = ROW / image.height
    # A panorama must not push the views off the sheet.
    shown = image.resize((min(max(1, round(image.width * scale)), 3 * ROW), ROW), Image.Resampling.BICUBIC)
    across = shown.width / image.width
    pen = ImageDraw.Draw(shown)
    for number, draw in enumerate(draws):
        top, left, height, width = (float(v) for v in draw.boxes[0])
        box = (left * across, top * scale, (left + width) * across - 1, (top + height) * scale - 1)
        is_global = number < GLOBAL_VIEWS
        pen.rectangle(box, outline=GLOBAL_COLOR if is_global else LOCAL_COLOR, width=2 if is_global else 1)
    return shown


def _square(view: Tensor, side: int) -> Image.Image:
    """(3, S, S) in [0, 1] as an image of `side` pixels; enlarged without smoothing, so that pixels stay honest."""
    levels = (view.clamp(0, 1) * 255).round().permute(1, 2, 0).to("cpu").numpy().astype(np.uint8)
    smaller = levels.shape[0] > side
    return Image.fromarray(levels).resize(
        (side, side), Image.Resampling.BICUBIC if smaller else Image.Resampling.NEAREST
    )
