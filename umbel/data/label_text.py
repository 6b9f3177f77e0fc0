"""Ids and labels of the user's tables as text: the same number in one spelling, and the order in which labels count."""

from __future__ import annotations

import re

WHOLE = re.compile(r"(-?[0-9]+)\.0*")
"""A whole number as a table of floats spells it."""


def identity(value: object) -> str | None:
    """An id or a label as text: numbers without a fraction are whole ("2.0" is "2"), empty and -1 are none."""
    if value is None or value != value:
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    whole = WHOLE.fullmatch(text)
    text = whole[1] if whole else text
    return None if text in ("", "-1") else text


def is_number(label: str) -> bool:
    """Whether a label is a whole number from 0."""
    return label.isascii() and label.isdigit()


def natural(label: str) -> tuple[int, int, str, str]:
    """What sorts whole numbers in their order, before text in its; of any number of digits."""
    if not is_number(label):
        return (1, 0, label, "")
    digits = label.lstrip("0")
    return (0, len(digits), digits, label)
