"""Low-rank adapters on a backbone's attention projections, through peft: the weights themselves stay as they are.

Source: LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., arXiv 2106.09685); rank, alpha and dropout as in
CroVCA (arXiv 2510.27584).
"""

from __future__ import annotations

import copy
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from umbel.run import UserError

PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj")
"""Linear layers of an attention by timm's names."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters of the encoder; without them it is frozen."""

    rank: int = 0
    """Of the adapters on the attention projections, and their alpha; 0: none. The paper takes 16."""
    dropout: float = 0.1
    """Of what an adapter is given, while it is trained (torch's own attention module, as in open_clip, takes none)."""
    learning_rate: float = 1e-3
    """Of AdamW for the adapters, at their first step; it ends in crovca.floor, as the head's does."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank must not be negative, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be at least 0 and less than 1, not {self.dropout}")
        if not self.learning_rate > 0:
            raise ValueError(f"lora.learning_rate must be positive, not {self.learning_rate}")


def import_peft() -> Any:
    """
    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UserError(f"--lora.rank needs peft, which is not here ({error}): pip install 'umbel[lora]'.") from error


class Adapted:
    """A network with adapters in place; all else in it is frozen, and in eval mode."""

    def __init__(self, network: nn.Module, config: LoraConfig, *, name: str, seed: int, without: str = "-") -> None:
        """Put adapters that change nothing yet into `network` itself.

        Args:
            name: of the network, for the sentence.
            seed: of the adapters' weights.
            without: beginning of the names of modules that get none.

        Raises:
            UserError: no peft, or no projections that it can adapt.
        """
        peft = import_peft()
        targets = [target for target in projections(network) if not target.startswith(without)]
        if not targets:
            raise UserError(
                f"backbone {name} has no attention projections for --lora.rank to adapt: choose a vision transformer."
            )
        # As one expression: of a list's names peft takes every module that ends in one of them.
        names = "|".join(map(re.escape, targets))
        self.config = peft.LoraConfig(
            r=config.rank, lora_alpha=config.rank, lora_dropout=config.dropout, bias="none", target_modules=names
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = peft.get_peft_model(network, self.config)
        self.name = name
        self.network.eval()
        for module in self.network.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.lora_dropout.train()

    def parameters(self) -> list[nn.Parameter]:
        """Of the adapters."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def check_used(self) -> None:
        """After a backward pass: refuse a network that goes round its projections' modules, so that nothing is adapted.

        Raises:
            UserError: an adapter got no gradient.
        """
        if any(parameter.grad is None for parameter in self.parameters()):
            raise UserError(
                f"backbone {self.name} computes its attention past the layers that --lora.rank adapts: choose another "
                "vision transformer."
            )

    def tensors(self) -> dict[str, Tensor]:
        """The adapters' weights by peft's names, on the CPU."""
        found: dict[str, Tensor] = import_peft().get_peft_model_state_dict(self.network)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def merge(self) -> nn.Module:
        """The network with the adapters added to its weights, as if there had never been any; ends this object."""
        merged: nn.Module = self.network.merge_and_unload()
        return merged.eval()


def write_adapter(folder: Path, tensors: dict[str, Tensor], config: Any) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained(network, FOLDER)` reads."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def check_adaptable(network: nn.Module, config: LoraConfig, *, name: str, side: int) -> None:
    """Refuse an image network that adapters would not reach, before anything is trained; it stays as it is.

    Args:
        side: of its images in pixels.

    Raises:
        UserError: see `Adapted`, and `Adapted.check_used`.
    """
    adapted = Adapted(copy.deepcopy(network).cpu(), config, name=name, seed=0)
    features: Tensor = adapted.network(torch.zeros(1, 3, side, side))
    if features.requires_grad:
        features.sum().backward()  # type: ignore[no-untyped-call]
    adapted.check_used()


def projections(network: nn.Module) -> list[str]:
    """Names of the attention projections that peft can adapt: linear layers, or torch's own attention as a whole."""
    return [
        name
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS)
        or isinstance(module, nn.MultiheadAttention)
    ]
