"""Which of a network's last features stand for a photograph: its class token, the mean of its patches, or both."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Tokens = Literal["pooled", "class", "mean", "both"]
WORDS: dict[Tokens, str] = {
    "class": "the class token after the final norm",
    "mean": "the mean of the patch tokens after the final norm",
    "both": "the class token and the mean of the patch tokens after the final norm, one behind the other",
}


class TokenReader(nn.Module):
    """A network of timm's (or one with the same surface) whose features are chosen tokens.

    A network whose last features are a map (ConvNeXt, ResNet) has the mean over its places instead of one over
    patches, through the norm of its head, if it has one.

    Raises:
        ValueError: the network has no such token; the message says why, to be read behind the network's name.
    """

    def __init__(self, network: Any, tokens: Tokens) -> None:
        super().__init__()
        if not hasattr(network, "forward_features"):
            raise ValueError("gives no tokens: leave --tokens at pooled")
        if tokens in ("class", "both") and not has_class_token(network):
            raise ValueError("has no class token: leave --tokens at pooled, or say mean")
        self.network, self.tokens = network, tokens

    def forward_features(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        """The network's own last features, of whatever shape."""
        found: Tensor = self.network.forward_features(images)
        return found

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        """(B, C), or (B, 2C) of `both`."""
        found = self.forward_features(images)
        if found.ndim == 4:
            return _mean_of_map(self.network, found)
        found = _normed(self.network, found)
        # Registers, and what else stands in front of the patches, are no part of the mean.
        mean = found[:, getattr(self.network, "num_prefix_tokens", 0) :].mean(1)
        if self.tokens == "mean":
            return mean
        return found[:, 0] if self.tokens == "class" else torch.cat([found[:, 0], mean], dim=1)


def network_of(model: nn.Module) -> nn.Module:
    """The network itself, where a model is one whose tokens are chosen."""
    return model.network if isinstance(model, TokenReader) else model


def has_class_token(network: Any) -> bool:
    """Whether the first of a network's last tokens is a class token."""
    return getattr(network, "cls_token", None) is not None and getattr(network, "num_prefix_tokens", 0) > 0


def _normed(network: Any, tokens: Tensor) -> Tensor:  # (B, N, C)
    """Tokens after the final norm. A ViT that averages has it behind its pooling: then a token goes through that."""
    before, behind = getattr(network, "norm", None), getattr(network, "fc_norm", None)
    if isinstance(before, nn.Identity) and isinstance(behind, nn.Module):
        tokens = behind(tokens)
    return tokens


def _mean_of_map(network: Any, features: Tensor) -> Tensor:
    """(B, C, H, W), or (B, H, W, C) of networks that say so -> (B, C)."""
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.mean((1, 2))
    mean = features.mean((2, 3), keepdim=True)
    norm = getattr(getattr(network, "head", None), "norm", None)
    return (mean if norm is None else norm(mean)).flatten(1)
