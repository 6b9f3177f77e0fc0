"""Features on a plane: principal components, then t-SNE (van der Maaten and Hinton, 2008), repeatable by a seed."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE  # type: ignore[import-untyped, unused-ignore]

COMPONENTS, PERPLEXITY, LEAST = 50, 30.0, 10


def on_plane(features: np.ndarray, *, seed: int) -> np.ndarray | None:
    """Where t-SNE puts L2-normalized features.

    Args:
        features: (N, C).

    Returns:
        (N, 2), of no unit; None where there are fewer than 10, or all are alike.
    """
    if len(features) < LEAST:
        return None
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    centered = unit - unit.mean(0)
    left, strength, _ = np.linalg.svd(centered, full_matrices=False)
    if not strength[0] > 1e-6:
        return None
    kept = (left * strength)[:, :COMPONENTS]
    # The sign of a component is arbitrary: its largest value is made positive, so that maps repeat.
    kept *= np.sign(kept[np.abs(kept).argmax(0), np.arange(kept.shape[1])])
    start = kept[:, :2] if kept.shape[1] > 1 else np.column_stack([kept, np.zeros(len(kept))])
    start = (start / start[:, 0].std() * 1e-4).astype(np.float32)
    perplexity = min(PERPLEXITY, (len(kept) - 1) / 3)
    tsne = TSNE(init=start, perplexity=perplexity, random_state=seed)
    places: np.ndarray = tsne.fit_transform(kept.astype(np.float32))
    return places
