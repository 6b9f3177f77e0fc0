"""The text tower that a stored coder remembers: loaded when texts are read, and refused where it is another by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from umbel.backbones.text_tower import TextTower, load_text_tower
from umbel.run import UserError

HERE = "open_clip:local-dir:."
"""The name of a tower that lies in the coder's own folder, wherever that is."""
BACKBONE = "backbone"
"""The folder of the adapted backbone in the coder's."""


class StoredTower:
    """A text tower by name and hash."""

    def __init__(self, name: str, sha256: str, *, loaded: TextTower | None = None) -> None:
        """
        Args:
            name: as `load_text_tower` takes it, or HERE.
            sha256: of the weights that read text.
            loaded: the tower itself, where it is at hand.
        """
        self.name, self.sha256, self.loaded = name, sha256, loaded
        self.home: Path | None = None
        """The coder's folder."""

    @classmethod
    def of(cls, tower: TextTower) -> StoredTower:
        """A tower that is at hand."""
        return cls(tower.name, tower.sha256, loaded=tower)

    def features(self, texts: list[str]) -> np.ndarray:
        """N texts -> (N, D) float32.

        Raises:
            UserError: the tower is not there, or has other weights by now.
        """
        if self.loaded is None:
            name = self.name
            if name == HERE:
                assert self.home is not None
                name = f"open_clip:local-dir:{self.home / BACKBONE}"
            tower = load_text_tower(name)
            if tower.sha256 != self.sha256:
                raise UserError(f"{name} has other weights than the tower that the coder's texts were read by.")
            self.loaded = tower
        return self.loaded.features(texts)

    def record(self) -> dict[str, Any]:
        """What the coder's record tells of it."""
        return {"name": self.name, "sha256": self.sha256}
