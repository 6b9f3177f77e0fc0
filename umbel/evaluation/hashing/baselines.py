"""Hashing without learning: random hyperplanes, principal components, rotated ones, and ITQ.

Source of ITQ: Iterative Quantization (Gong and Lazebnik, CVPR 2011). A learned coder has to beat these.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from umbel.run import UserError


class LinearHash:
    """Bits are the signs of K linear functions of the centered features; a subclass chooses the functions."""

    method: ClassVar[str]

    def __init__(self, bits: int, *, seed: int = 0) -> None:
        if bits < 1:
            raise ValueError(f"bits must be at least 1, not {bits}")
        self.bits, self.seed = bits, seed
        self.mean = np.empty(0, np.float32)  # (C,)
        self.projection = np.empty((0, bits), np.float32)  # (C, K)

    @property
    def width(self) -> int:
        """C, of the features; 0 before `fit`."""
        return len(self.mean)

    def fit(self, features: np.ndarray) -> Self:
        """Choose the functions by features (N, C).

        Raises:
            UserError: fewer than two rows, or more bits than the method can make of C.
        """
        if features.ndim != 2 or len(features) < 2:
            raise UserError(f"{self.method} needs features (N, C) of at least 2 photographs, not {features.shape}.")
        mean = features.mean(0, dtype=np.float64)
        centered = features - mean
        projection = self.directions(centered, np.random.default_rng(self.seed))
        # One scale for all bits changes no code; with it, logits have mean square 1, as batch-normalized ones have, so
        # that the sigmoid of the asymmetric distance means the same for every method.
        scale = np.sqrt(np.square(centered @ projection).mean())
        self.mean = mean.astype(np.float32)
        self.projection = (projection / (scale if scale > 0 else 1.0)).astype(np.float32)
        return self

    def directions(self, centered: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(N, C) float64, centered -> (C, K)."""
        raise NotImplementedError

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) float32."""
        logits: np.ndarray = (np.asarray(features, np.float32) - self.mean) @ self.projection
        return logits

    def encode(self, features: np.ndarray) -> np.ndarray:
        """(N, C) -> (N, K) bool."""
        bits: np.ndarray = self.logits(features) > 0
        return bits

    def settings(self) -> dict[str, Any]:
        """What `from_tensors` needs beside the tensors."""
        return {"width": self.width, "bits": self.bits, "seed": self.seed}

    def tensors(self) -> dict[str, np.ndarray]:
        """Mean and projection."""
        return {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        """The fitted method that `settings` and `tensors` tell of.

        Raises:
            ValueError, TypeError, KeyError: settings or tensors that do not fit together.
        """
        hasher = cls(settings["bits"], seed=settings["seed"])
        wanted = {"mean": (settings["width"],), "projection": (settings["width"], settings["bits"])}
        found = {name: value.shape for name, value in tensors.items()}
        if found != wanted or any(value.dtype != np.float32 for value in tensors.values()):
            raise ValueError(f"float32 tensors {wanted} expected, not {found}")
        hasher.mean, hasher.projection = tensors["mean"], tensors["projection"]
        return hasher


class LSH(LinearHash):
    """Random hyperplanes through the mean."""

    method = "lsh"

    def directions(self, centered: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return generator.standard_normal((centered.shape[1], self.bits))


class PCASign(LinearHash):
    """Signs of the first K principal components."""

    method = "pca"

    def directions(self, centered: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return self.components(centered)

    def components(self, centered: np.ndarray) -> np.ndarray:
        """The first K principal directions, (C, K), the largest entry of each made positive."""
        width = centered.shape[1]
        if self.bits > width:
            raise UserError(f"{self.method} makes at most {width} bits of features of width {width}, not {self.bits}.")
        vectors = np.linalg.eigh(centered.T @ centered).eigenvectors[:, ::-1][:, : self.bits]
        largest = np.abs(vectors).argmax(0)
        components: np.ndarray = vectors * np.sign(vectors[largest, np.arange(self.bits)])
        return components


class PCARotation(PCASign):
    """Signs of the first K principal components after a random rotation."""

    method = "pca-rotation"

    def directions(self, centered: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        directions: np.ndarray = self.components(centered) @ random_rotation(self.bits, generator)
        return directions


class ITQ(PCASign):
    """Principal components rotated so that they lie close to their signs (Procrustes, from a random rotation)."""

    method = "itq"
    iterations = 50

    def directions(self, centered: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        components = self.components(centered)
        reduced = centered @ components  # (N, K)
        rotation = random_rotation(self.bits, generator)
        for _ in range(self.iterations):
            signs = np.where(reduced @ rotation > 0, 1.0, -1.0)
            left, _, right = np.linalg.svd(reduced.T @ signs)
            rotation = left @ right
        directions: np.ndarray = components @ rotation
        return directions


def random_rotation(bits: int, generator: np.random.Generator) -> np.ndarray:
    """A uniformly drawn orthogonal matrix, (K, K)."""
    factor, triangle = np.linalg.qr(generator.standard_normal((bits, bits)))
    rotation: np.ndarray = factor * np.sign(np.diag(triangle))
    return rotation
