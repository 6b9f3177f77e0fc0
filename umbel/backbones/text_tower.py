"""Towers that turn texts into features, by name: those of open_clip's models, and those of CLAP (text beside sound).

`open_clip:NAME` as image towers are called, and `clap:NAME` (see umbel.backbones.clap).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umbel.backbones import open_clip_tower
from umbel.backbones.weights_hash import state_sha256
from umbel.run import UserError

CLAP = "clap:"
TEXTS_AT_ONCE = 256


class TextTower(ABC):
    """Texts -> features in the space where a model compares them with its other modality; in eval mode."""

    without: str
    """Beginning of the names of the network's parts that read no text."""

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name, self.network = name, network.eval()

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D), with gradients where the network's parameters want them; on the network's device."""

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> np.ndarray:
        """N texts -> (N, D) float32; equal texts are read once."""
        different = list(dict.fromkeys(texts))
        parts = [
            self.encode(different[first : first + TEXTS_AT_ONCE]).float().cpu().numpy()
            for first in range(0, len(different), TEXTS_AT_ONCE)
        ]
        place = {text: row for row, text in enumerate(different)}
        found: np.ndarray = np.concatenate(parts)[[place[text] for text in texts]]
        return found

    @property
    def sha256(self) -> str:
        """Hash of the weights that read text."""
        return state_sha256(self.network, without=self.without)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


class OpenClipText(TextTower):
    """The text tower of a model of open_clip's, which it keeps whole."""

    without = "visual."

    def __init__(self, name: str) -> None:
        """
        Args:
            name: without the prefix.
        """
        self.model = open_clip_tower.load_model(name)
        super().__init__(open_clip_tower.PREFIX + name, self.model)
        try:
            self.tokenizer: Any = open_clip_tower.import_open_clip(name).get_tokenizer(
                open_clip_tower.parts_of(name)[0]
            )
        except (ImportError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(f"the tokenizer of {self.name} cannot be had: {reason}.") from error

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextTower.encode`; texts are cut at the model's context length."""
        found: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device))
        return found


def load_text_tower(name: str) -> TextTower:
    """Load the text tower of a model.

    Raises:
        UserError: no such model, its weights or library cannot be had, or nothing reads texts by that name.
    """
    if name.startswith(open_clip_tower.PREFIX):
        return OpenClipText(name.removeprefix(open_clip_tower.PREFIX))
    if name.startswith(CLAP):
        from umbel.backbones.clap import Clap  # transformers takes seconds

        return Clap(name.removeprefix(CLAP))
    raise UserError(f"'{name}' reads no texts: give letters, open_clip:NAME or clap:NAME.")
