"""Photographs beside the principal components of their patch features and the class token's attention."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from umbel.backbones import Backbone
from umbel.evaluation.report_attention import over_photograph, why_no_attention
from umbel.evaluation.report_html import Markup, aside, join, picture, tag
from umbel.evaluation.report_pictures import patch_pictures

SIDE = 360


def patch_maps(backbone: Backbone, photographs: list[Tensor]) -> Markup:
    """A row for each photograph, (3, H, W) uint8; the backbone must have patches and take images of any size."""
    if backbone.patch is None:
        return aside("There are no maps of patch features: the backbone has no patches.")
    maps, attentions = patch_pictures(backbone, photographs, backbone.patch)
    lines = []
    for number, (photograph, image, attention) in enumerate(zip(photographs, maps, attentions, strict=True)):
        shown = _image(photograph)
        size = f"{image.height} by {image.width} patches"
        parts = [picture(shown, f"Photograph {number + 1}.")]
        parts.append(picture(image, f"Its patch features: {size}.", exact=True, class_="map"))
        if attention is not None:
            alt = f"Where the class token looks: {size}, the photograph light there and dark elsewhere."
            parts.append(picture(over_photograph(shown, attention), alt))
        lines.append(tag("div", *parts, class_="pair" if attention is None else "pair triple"))
    lacking = why_no_attention(backbone.model)
    told = aside(f"There are no pictures of attention: {lacking}.") if lacking else Markup()
    return join(told, tag("div", *lines, class_="maps"))


def patch_words() -> Markup:
    """What the pictures of `patch_maps` show."""
    told = (
        "Beside each photograph the first three principal components of its patch features, taken over all these "
        "photographs together, as red, green and blue: patches of like color are alike to the backbone. The colors "
        "have no meaning of their own."
    )
    attended = (
        "The third picture is light where the class token looks: its attention to the patches in the last block, "
    )
    return join(tag("p", told), tag("p", f"{attended}averaged over heads."))


def _image(photograph: Tensor) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(photograph.permute(1, 2, 0).numpy()))
    image.thumbnail((SIDE, SIDE))
    return image
