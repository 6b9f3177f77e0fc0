"""The hash of a network's weights: the same wherever they were read from."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn


def state_sha256(network: nn.Module, *, without: str | None = None) -> str:
    """Of names, types, shapes and values of all parameters and buffers.

    Args:
        without: beginning of the names that are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
