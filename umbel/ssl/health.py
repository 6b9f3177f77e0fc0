"""Health of a training run, measured on the device at log points: do features collapse, where do gradients vanish?

Sources: RankMe (arXiv 2210.02885) for the effective rank, SimDINO (arXiv 2502.10385) for the coding rate. In float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umbel.coding_rate import coding_rate, world_size

MEASURES = ("effective_rank", "cosine", "agreement", "coding_rate_share")
"""What `health` measures, as metrics.jsonl calls it."""
_NUMBERED = re.compile(r"(?:^|\.)(block|stage|layer)s\.(\d+)\.")


@torch.no_grad()
def health(tokens: Tensor, student: Tensor, teacher: Tensor, *, eps: float) -> Tensor:
    """All of MEASURES of one micro-batch.

    Over ranks the coding rate is that of all ranks' rows (a sum of D x D matrices, so every rank must call this); the
    other three are of this rank's photographs, and their mean over ranks is what is reported. A mean over ranks of all
    four is right, since the coding rate's share is the same on every rank.

    On a GPU the host waits once, in the solver of `effective_rank`: call it where values are read anyway.

    Args:
        tokens: (2B, C), class tokens of the teacher's global views, before the head.
        student: (V, B, D), unit class outputs, V >= 2; views 0 and 1 are the global ones.
        teacher: (2, B, D), unit class outputs of the same views.
        eps: precision of the coding rate.

    Returns:
        (4,) float64; NaN where the inputs are not finite, and for the cosine where a batch has one photograph.
    """
    values = (
        effective_rank(tokens),
        mean_cosine(teacher),
        agreement(student, teacher),
        coding_rate_share(teacher, eps=eps),
    )
    return torch.stack(values)


def effective_rank(tokens: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares: how many directions the features fill (not centered).

    1 where all features are the same up to scale, at most min(n, C).

    Args:
        tokens: (n, C).

    Returns:
        float64 scalar; NaN where tokens are not finite.
    """
    x = tokens.double()
    finite = x.isfinite().all()
    # The solver refuses what is not finite, with an error and not with a NaN.
    x = torch.where(finite, x, 0)
    # Singular values as roots of the smaller Gram matrix's eigenvalues: squaring costs half of float64's 16 digits.
    gram = x @ x.mT if len(x) < x.shape[1] else x.mT @ x
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny)
    rank = torch.special.entr(share).sum().exp()
    return torch.where(finite, rank, torch.nan)


def mean_cosine(classes: Tensor) -> Tensor:
    """Mean cosine of outputs of different photographs, over all their pairs of views; 1 is collapse.

    With p_b the sum of photograph b's V unit vectors, the sum over pairs of different photographs is
    |sum_b p_b|^2 - sum_b |p_b|^2, and no matrix of pairs is needed.

    Args:
        classes: (V, B, D), of any length.

    Returns:
        float64 scalar; NaN for a single photograph.
    """
    views, batch, _ = classes.shape
    summed = F.normalize(classes.double(), dim=-1).sum(0)  # (B, D)
    pairs = views * views * batch * (batch - 1)
    between = summed.sum(0).square().sum() - summed.square().sum()
    return between / (pairs or math.nan)


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine of the student's and the teacher's outputs of the same global view.

    The student sees half of these views masked, as the loss has it.

    Args:
        student: (V, B, D), of which views 0 and 1 count; teacher: (2, B, D).

    Returns:
        float64 scalar.
    """
    return F.cosine_similarity(student[:2].double(), teacher.double(), dim=-1).mean()


def coding_rate_share(features: Tensor, *, eps: float) -> Tensor:
    """The coding rate over the greatest that unit vectors can have, averaged over views; rows summed over ranks.

    F^T F has at most r = min(m, D) eigenvalues above 0 and they sum to m, so by concavity
    R = 1/2 sum log(1 + D / (m eps) lambda_i) is greatest where each is m / r: r/2 log(1 + D / (r eps)).
    For m >= D that is D/2 log(1 + 1 / eps), below it m/2 log(1 + D / (m eps)).

    Args:
        features: (V, n, D), unit vectors, n rows of each of W ranks; m = W n.
        eps: precision of the code.

    Returns:
        float64 scalar between 0 and 1; NaN where features are not finite.
    """
    rows, width = features.shape[-2:]
    most = min(rows * world_size(), width)
    greatest = most / 2 * math.log1p(width / (most * eps))
    return coding_rate(features.double(), eps=eps).mean() / greatest


@torch.no_grad()
def gradient_norms(network: nn.Module) -> tuple[list[str], Tensor]:
    """L2 norm of the gradient of each part of the network, from below upwards; call it before clipping.

    Parts: embedding (tokens, positions, mask token, patch embedding, stem), every block or stage, norm (what follows
    them in the backbone), head. Parameters without a gradient count for nothing, parts without any are left out.
    Gradients are averaged over ranks already, so every rank has the same norms. The host does not wait.

    Args:
        network: with its parameters in `backbone` and `head`, not wrapped; the backbone's blocks, stages or layers are
            numbered in the parameters' names, as timm's are.

    Returns:
        names of g parts, and (g,) float32 norms.
    """
    groups: dict[str, list[Tensor]] = {}
    named = list(network.named_parameters())
    for (_, parameter), part in zip(named, parts_of(name for name, _ in named), strict=True):
        if parameter.grad is not None:
            groups.setdefault(part, []).append(parameter.grad)
    norms = [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found))) for found in groups.values()]
    return list(groups), torch.stack(norms).float() if norms else torch.empty(0)


def parts_of(names: Iterable[str]) -> list[str]:
    """The part of the network that each parameter belongs to, in the order of the parameters.

    In the backbone the place decides: before the first block or stage it is the embedding, behind it the final norm.
    """
    parts, inside = [], False
    for name in names:
        numbered = _NUMBERED.search(name) if name.startswith("backbone.") else None
        if numbered is not None:
            inside = True
            parts.append(f"{numbered[1]} {numbered[2]}")
        elif name.startswith("head."):
            parts.append("head")
        else:
            parts.append("norm" if inside and name.startswith("backbone.") else "embedding")
    return parts
