"""`umbel views DATA`: a sheet of photographs and the views that training would see of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from umbel.augment.own_policy import Policy, policy_name
from umbel.augment.policy import POLICIES
from umbel.augment.sheet import views_sheet
from umbel.augment.views import GLOBAL_VIEWS, INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.config import as_sentence, from_values, nearest, read_recipe, recipe_names
from umbel.data.decode import decode
from umbel.data.index import find_shards, open_shards
from umbel.data.photograph import BadPhotographError, find_photographs, read_photograph
from umbel.data.reader import ShardReader
from umbel.picture import check_picture, save_picture
from umbel.random_stream import Purpose, stream
from umbel.run import UserError, say

SOFTWARE = "umbel views"
CPU = torch.device("cpu")


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
    policies: tuple[str, ...] = ()
    """Policies to compare on the same boxes, each by its name or by a recipe that has it."""
    views: ViewsConfig = field(default_factory=ViewsConfig)

    def recipe_values(self) -> tuple[str, dict[str, Any]]:
        """The settings of the recipe's views."""
        views = read_recipe(self.recipe, "pretrain").get("views", {})
        return f"recipe {self.recipe}", {"views": views}


def run(config: ViewsSheetConfig) -> None:
    """Write the sheet.

    Raises:
        UserError: no photographs, or a damaged one; no such policy, or one that needs larger views.
    """
    if config.count < 1:
        raise UserError(f"--count must be at least 1, not {config.count}.")
    if config.seed < 0:
        raise UserError(f"--seed must not be negative, but is {config.seed}.")
    check_picture(config.out, SOFTWARE)
    policies = {name: policy_called(name) for name in config.policies}
    policies = policies or {policy_name(config.views.policy): config.views.policy}
    try:
        settings = [replace(config.views, policy=policy) for policy in policies.values()]
    except ValueError as error:
        raise UserError(as_sentence(f"--policies: {error}")) from error
    makers = [Views(s, seed=config.seed, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=CPU) for s in settings]
    photographs = choose_photographs(config.data, config.count, config.seed)
    sheet = views_sheet(photographs, dict(zip(policies, makers, strict=True)))
    save_picture(sheet, config.out, SOFTWARE)
    total = GLOBAL_VIEWS + config.views.local_views
    named = "policy" if len(policies) == 1 else "policies"
    say(f"{config.out}: {len(photographs)} photographs with {total} views each, {named} {', '.join(policies)}.")


def policy_called(name: str) -> Policy:
    """A policy's name, or the policy of a recipe.

    Raises:
        UserError: neither a policy nor a recipe.
    """
    if name in POLICIES:
        return name
    if not name.endswith((".yaml", ".yml")) and name not in recipe_names():
        known = nearest(name, [*POLICIES, *recipe_names()])
        told = f"--policies: '{name}' is neither a policy ({', '.join(POLICIES)}) nor a recipe{known}"
        raise UserError(as_sentence(told))
    asked = ViewsSheetConfig(data="", recipe=name)
    label, values = asked.recipe_values()
    return from_values(asked, values, label).views.policy


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
