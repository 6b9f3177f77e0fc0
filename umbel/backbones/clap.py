"""CLAP models (sound and text in one space), BioLingual among them, through transformers: by a folder or a hub name.

Source: Large-scale Contrastive Language-Audio Pretraining (Wu et al., arXiv 2211.06687). Needs the extra `text`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel.backbones.text_tower import CLAP, TextTower
from umbel.backbones.weights_hash import state_sha256
from umbel.run import UserError


class Clap(TextTower):
    """Both towers of a CLAP model: texts -> (N, D), a waveform -> (D,), of length 1."""

    without = "audio_"

    def __init__(self, name: str) -> None:
        """
        Args:
            name: a folder, or a name on the hub, without the prefix.

        Raises:
            UserError: transformers is not installed, or there is no such model.
        """
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise UserError(
                f"{CLAP}{name} needs transformers, which is not here ({error}): pip install 'umbel[text]'."
            ) from error
        transformers.utils.logging.disable_progress_bar()
        try:
            model = transformers.ClapModel.from_pretrained(name)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
            self.extractor: Any = transformers.ClapFeatureExtractor.from_pretrained(name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(f"{CLAP}{name} cannot be loaded: {reason}.") from error
        super().__init__(CLAP + name, model)
        self.model: Any = model
        self.width = int(model.config.projection_dim)
        self.rate = int(self.extractor.sampling_rate)
        """Samples a second of what the model hears."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextTower.encode`; texts are cut at the model's context length."""
        longest = self.model.config.text_config.max_position_embeddings - 2
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return _pooled(
            self.model.get_text_features(
                input_ids=read["input_ids"].to(self.device), attention_mask=read["attention_mask"].to(self.device)
            )
        )

    @property
    def sha256_of_sound(self) -> str:
        """Hash of the weights that hear."""
        return state_sha256(self.network, without="text_")

    @torch.inference_mode()
    def sound_features(self, sound: np.ndarray) -> np.ndarray:
        """A waveform (S,) at `rate` -> (D,) float32: the mean over windows as long as the model hears, of length 1.

        The extractor itself takes random pieces of what is longer than a window; windows are all heard, always alike.
        """
        longest = int(self.extractor.nb_max_samples)
        windows = [sound[first : first + longest] for first in range(0, max(len(sound), 1), longest)]
        # A rest of less than a second says little beside whole windows.
        if len(windows) > 1 and len(windows[-1]) < self.rate:
            windows.pop()
        found = torch.cat([self._window(window) for window in windows]).float().mean(0)
        features: np.ndarray = torch.nn.functional.normalize(found, dim=0).cpu().numpy()
        return features

    def _window(self, sound: np.ndarray) -> Tensor:
        heard = self.extractor(sound, sampling_rate=self.rate, return_tensors="pt")
        return _pooled(
            self.model.get_audio_features(
                input_features=heard["input_features"].to(self.device), is_longer=heard["is_longer"].to(self.device)
            )
        )


def _pooled(found: Any) -> Tensor:
    """Features as transformers gives them: in an output object since its version 5."""
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return features
