"""The annotations of iNaturalist 2021 (COCO-like JSON, a gigabyte), read as a stream into compact columns.

Source: the competition's README. The file is passed over once for each of its lists, and only what belongs to the taxon
is kept.
"""

from __future__ import annotations

import array
import bisect
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson
import numpy as np

from umbel.data.sources.taxon import LEVELS, Taxon
from umbel.run import UserError

TAXONOMY = (*LEVELS, "specific_epithet", "common_name")


class Texts:
    """Strings one behind the other: their bytes and 8 more each, where a list of them takes 60 more."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array.array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        return self._bytes[self._ends[row] : self._ends[row + 1]].decode()


class Interned:
    """Strings of which many are the same: each once, and 4 bytes a row."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {}
        self._codes = array.array("i")
        self._texts: list[str | None] = []

    def append(self, text: str | None) -> None:
        number = self._numbers.setdefault(text, len(self._numbers))
        if number == len(self._texts):
            self._texts.append(text)
        self._codes.append(number)

    def __getitem__(self, row: int) -> str | None:
        return self._texts[self._codes[row]]


@dataclass(frozen=True, kw_only=True)
class Category:
    """A species that belongs to the taxon."""

    label: int
    """Its place among those of the taxon, by category id."""
    name: str
    taxonomy: Mapping[str, str]


class Annotations:
    """The images of a taxon, row by row."""

    def __init__(self, path: Path, taxon: Taxon, *, keep_location: bool) -> None:
        """Read a JSON file of the competition.

        Raises:
            UserError: it cannot be read, or holds nothing of the taxon.
        """
        self.path = path
        self.categories: dict[int, Category] = {}
        """By category id."""
        self.all_categories = self.all_images = 0
        self.ids, self.category_ids = array.array("q"), array.array("q")
        self.folders, self.files = Interned(), Texts()
        self.licenses, self.holders, self.dates = Interned(), Interned(), Texts()
        self.locations: array.array[float] | None = array.array("d") if keep_location else None
        """Latitude, longitude and uncertainty of every row, NaN where there is none."""
        self.fingerprint = ""
        try:
            with path.open("rb") as file:
                self.fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:24]
            self._read_categories(taxon)
            self._read_images()
            if not len(self):
                raise UserError(f"{path} annotates no image of {taxon} (the test set has no annotations).")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from error
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not JSON, or cut off ({' '.join(str(error).split())}).") from error
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UserError(
                f"{path} is not the competition's: one of its images, annotations, categories or licenses has no or "
                f"another {error}."
            ) from error

    def __len__(self) -> int:
        return len(self.ids)

    def file_name(self, row: int) -> str:
        """The path of a row's photograph, as the JSON has it."""
        return f"{self.folders[row]}/{self.files[row]}"

    def metadata(self, row: int) -> dict[str, object]:
        """What is known of a row's photograph."""
        told: dict[str, object] = {
            "image_id": self.ids[row],
            "taxonomy": dict(self.categories[self.category_ids[row]].taxonomy),
            "license": self.licenses[row],
            "rights_holder": self.holders[row],
            "date": self.dates[row] or None,
        }
        if self.locations is not None:
            names = ("latitude", "longitude", "location_uncertainty")
            told |= zip(names, self.locations[3 * row : 3 * row + 3], strict=True)
        return {name: value for name, value in told.items() if value is not None and value == value}

    def _items(self, name: str) -> Iterator[dict[str, Any]]:
        """The entries of one of the file's lists."""
        with self.path.open("rb") as file:
            yield from ijson.items(file, f"{name}.item", use_float=True)

    def _read_categories(self, taxon: Taxon) -> None:
        found = sorted(self._items("categories"), key=lambda category: int(category["id"]))
        self.all_categories = len(found)
        if not found:
            raise UserError(f"{self.path} holds no categories: it is not the competition's train.json or the like.")
        for label, place in enumerate(taxon.choose(found)):
            category = found[place]
            taxonomy = {level: str(category[level]) for level in TAXONOMY if category.get(level)}
            self.categories[int(category["id"])] = Category(label=label, name=category["name"], taxonomy=taxonomy)

    def _read_images(self) -> None:
        image_ids, category_ids = array.array("q"), array.array("q")
        for annotation in self._items("annotations"):
            if annotation["category_id"] in self.categories:
                image_ids.append(annotation["image_id"])
                category_ids.append(annotation["category_id"])
        ids = np.frombuffer(image_ids, dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        wanted = array.array("q", ids[order].tobytes())  # bisect in it is 5 times faster than numpy's for one number
        categories = np.frombuffer(category_ids, dtype=np.int64)[order]
        licenses = {entry["id"]: str(entry["name"]) for entry in self._items("licenses")}
        for image in self._items("images"):
            self.all_images += 1
            place = bisect.bisect_left(wanted, image["id"])
            if place == len(wanted) or wanted[place] != image["id"]:
                continue
            folder, _, file = image["file_name"].rpartition("/")
            self.ids.append(image["id"])
            self.category_ids.append(int(categories[place]))
            self.folders.append(folder)
            self.files.append(file)
            number = image.get("license")
            self.licenses.append(None if number is None else licenses.get(number, f"license {number}"))
            self.holders.append(image.get("rights_holder"))
            self.dates.append(image.get("date") or "")
            if self.locations is not None:
                for name in ("latitude", "longitude", "location_uncertainty"):
                    value = image.get(name)
                    self.locations.append(float("nan") if value is None else float(value))
