"""`umbel views DATA`: a sheet of photographs and the views that training would see of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from umbel.augment.sheet import views_sheet
from umbel.augment.views import GLOBAL_VIEWS, INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.config import read_recipe
from umbel.data.decode import decode
from umbel.data.index import find_shards, open_shards
from umbel.data.photograph import BadPhotographError, find_photographs, read_photograph
from umbel.data.reader import ShardReader
from umbel.picture import check_picture, save_picture
from umbel.random_stream import Purpose, stream
from umbel.run import UserError, say

SOFTWARE = "umbel views"


@dataclass(frozen=True, kw_only=True)
class ViewsSheetConfig:
    """Draw a sheet of photographs and their augmented views."""

    data: Annotated[str, tyro.conf.Positional]
    """A photograph, a folder of photographs, or shards."""
    out: Path = Path("views.png")
    """The picture (PNG); an older one is replaced."""
    recipe: str = "demo"
    """Recipe whose views are shown (a name or a YAML file)."""
    count: int = 6
    """Photographs on the sheet."""
    seed: int = 0
    """Seed of the photographs and of the views."""
    views: ViewsConfig = field(default_factory=ViewsConfig)

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The settings of the recipe's views."""
        views = read_recipe(self.recipe, "pretrain").get("views", {})
        return f"recipe {self.recipe}", {"views": views}


def run(config: ViewsSheetConfig) -> None:
    """Write the sheet.

    Raises:
        UserError: no photographs, or a damaged one.
    """
    if config.count < 1:
        raise UserError(f"--count must be at least 1, not {config.count}.")
    if config.seed < 0:
        raise UserError(f"--seed must not be negative, but is {config.seed}.")
    check_picture(config.out, SOFTWARE)
    photographs = choose_photographs(config.data, config.count, config.seed)
    cpu = torch.device("cpu")
    views = Views(config.views, seed=config.seed, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=cpu)
    total = GLOBAL_VIEWS + config.views.local_views
    all_draws, all_views = [], []
    for position, photograph in enumerate(photographs):
        size = np.array([photograph.shape[1:]])
        draws = [views.draw(size, np.array([0]), np.array([position]), view) for view in range(total)]
        sides = [config.views.global_size] * GLOBAL_VIEWS + [config.views.local_size] * config.views.local_views
        all_draws.append(draws)
        all_views.append([views.make(photograph[None], [d], s)[0] for d, s in zip(draws, sides, strict=True)])
    sheet = views_sheet(photographs, all_draws, all_views)
    save_picture(sheet, config.out, SOFTWARE)
    say(f"{config.out}: {len(photographs)} photographs with {total} views each, policy {config.views.policy}.")


def choose_photographs(data: str, count: int, seed: int) -> list[Tensor]:
    """Some photographs of DATA, drawn by the seed: (3, H, W) uint8 each.

    Raises:
        UserError: none there, or one that cannot be read.
    """
    generator = stream(seed, 0, Purpose.ORDER)
    path = Path(data)
    try:
        if find_shards(data):
            shards = open_shards(data)
            if not len(shards):
                raise UserError(f"{data}: the shards are empty.")
            reader = ShardReader(shards)
            chosen = generator.choice(len(shards), size=min(count, len(shards)), replace=False)
            return [decode(reader.read(int(sample), "jpg"), canvas=512) for sample in chosen]
        files = [path] if path.is_file() else find_photographs(path) if path.is_dir() else []
        if not files:
            raise UserError(f"{data} holds neither photographs nor shards.")
        picked = generator.choice(len(files), size=min(count, len(files)), replace=False)
        return [_read(files[number]) for number in picked]
    except BadPhotographError as error:
        raise UserError(f"{data}: a photograph cannot be used: {error}.") from error


def _read(path: Path) -> Tensor:
    try:
        image = read_photograph(path)
    except BadPhotographError as error:
        raise UserError(f"{path} cannot be used: {error}.") from error
    image.thumbnail((512, 512))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
