"""What `umbel hash fit` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from umbel.data.folder import check_shards
from umbel.evaluation.hashing.lora import LoraConfig
from umbel.evaluation.hashing.pair_sources import CAPTIONS, NAMES
from umbel.evaluation.hashing.photograph_views import PhotographViewsConfig
from umbel.evaluation.hashing.train_coders import CrovcaConfig
from umbel.machine import DeviceChoice

LETTERS = "letters"
Method = Literal["crovca", "itq", "pca", "pca-rotation", "lsh"]


@dataclass(frozen=True, kw_only=True)
class HashFitConfig:
    """Fit a hashing method: CroVCA on views of photographs, the others on embeddings."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder of `umbel embed`, or (crovca) a backbone: a run, a folder, hf-hub:NAME, a name of timm's."""
    out: Path
    """Folder for the coder."""
    data: str | None = None
    """Shards whose photographs crovca trains on; by default those that the embeddings were made of."""
    bits: int = 32
    """K, bits of a code."""
    method: Method = "crovca"
    """crovca (learned), itq, pca (signs of principal components), pca-rotation or lsh (random hyperplanes)."""
    supervised: bool = False
    """crovca: photographs of a species predict one code, by the shards' labels; those without one their own."""
    label_fields: tuple[str, ...] = ()
    """supervised: fields of the photographs' JSON that are labels as well, such as genus family; a list is several."""
    pairs: str | None = None
    """crovca on embeddings: what describes each photograph beside them: names (texts made of its species' name and
    classification), captions (its <key>.txt), or a folder of embeddings of another modality with the same keys."""
    texts: str = LETTERS
    """What reads the texts of names and captions: letters (runs of letters, nothing is downloaded), or the text tower
    of open_clip:NAME or clap:NAME."""
    seed: int = 0
    """Seed of weights, order, views and rotations."""
    device: DeviceChoice = "auto"
    """Where crovca runs: auto, cpu or cuda."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""
    crovca: CrovcaConfig = field(default_factory=CrovcaConfig)
    photographs: PhotographViewsConfig = field(default_factory=PhotographViewsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"bits must be at least 1, not {self.bits}")
        if self.supervised and self.method != "crovca":
            raise ValueError(f"supervised is of the method crovca, not of {self.method}")
        if self.label_fields and not self.supervised:
            raise ValueError(f"label_fields ({', '.join(self.label_fields)}) are for supervised")
        if self.pairs is not None and (self.supervised or self.method != "crovca"):
            raise ValueError("pairs are of the method crovca without supervised")
        if self.texts != LETTERS and self.pairs not in (NAMES, CAPTIONS):
            raise ValueError(f"texts ({self.texts}) are read for pairs names or captions alone")
        if self.lora.rank:
            if self.method != "crovca" or self.pairs not in (None, NAMES, CAPTIONS):
                raise ValueError("lora.rank is of the method crovca, without pairs or with pairs names or captions")
            if self.crovca.epochs < 2:
                raise ValueError("lora.rank needs crovca.epochs of at least 2: in the first one the head learns alone")
            if self.crovca.views != 2:
                raise ValueError(f"lora.rank trains on two new views of a photograph: crovca.views={self.crovca.views}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")

    @property
    def on_photographs(self) -> bool:
        """Whether views of photographs are looked at, and not embeddings alone."""
        return self.method == "crovca" and (self.pairs is None or self.lora.rank > 0)

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        if self.on_photographs and self.data is not None:
            check_shards(self.data)
