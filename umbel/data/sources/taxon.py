"""Choosing categories by a taxon: `kingdom=Plantae`, `family=Asteraceae`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umbel.run import UserError

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "name", "supercategory")


@dataclass(frozen=True, kw_only=True)
class Taxon:
    """A level of the classification and a name at it."""

    level: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Taxon:
        """Read `level=value`.

        Raises:
            UserError: it is something else.
        """
        level, _, value = text.partition("=")
        if level not in LEVELS or not value:
            raise UserError(f"--taxon must be level=value with a level of {', '.join(LEVELS)}, not '{text}'.")
        return cls(level=level, value=value)

    def __str__(self) -> str:
        return f"{self.level} {self.value}"

    def choose(self, categories: Sequence[Mapping[str, object]]) -> list[int]:
        """The places of the categories that belong to the taxon.

        Raises:
            UserError: there are none.
        """
        chosen = [place for place, category in enumerate(categories) if category.get(self.level) == self.value]
        if not chosen:
            there = sorted({str(category[self.level]) for category in categories if category.get(self.level)})
            near = difflib.get_close_matches(self.value, there, 1)
            some = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
            hint = f", did you mean '{near[0]}'?" if near else f"; there are {len(there)}: {some}."
            if not there:
                hint = f": they tell no {self.level}."
            raise UserError(f"no category has {dataclasses.replace(self, value=repr(self.value))}{hint}")
        return chosen
