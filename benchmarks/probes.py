"""Probes, measured: time and peak memory of Umbel's beside a plain numpy loop and scikit-learn, in one run.

Three tasks on random features with some signal of the class: 5 shots x 200 draws on 100,000 x 768 with 4,271 classes;
600 episodes, 20-way 5-shot, on the same; k-NN of 100,000 queries against 1.1 million. Each contender runs in a process
of its own, so that the peak of memory is its own. The plain loops and scikit-learn would take hours: they do a part
of the draws, episodes or queries (--part seconds' worth, told in the table), and their time is scaled to the whole; a
part's answers must equal Umbel's. --scale 0.02 tries it in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(__file__))
from measuring import in_words, setting

from umbel.evaluation.episodes import episodic
from umbel.evaluation.fewshot import draw_support, nearest_centroid
from umbel.evaluation.knn import vote
from umbel.evaluation.logistic import fit

CONTENDERS = {
    "centroid": ("umbel", "numpy", "scikit-learn"),
    "episodes": ("umbel", "numpy", "scikit-learn"),
    "knn": ("umbel", "numpy", "scikit-learn"),
    "logistic": ("umbel", "scikit-learn"),
}
WIDTH, SHOTS, DRAWS, EPISODES, WAYS, QUERIES, NEIGHBORS = 768, 5, 200, 600, 20, 15, 20
LOGISTIC = 5000
Run = Callable[[], Iterator[float]]
"""Does the work part by part, and gives an accuracy for each part."""


def features(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 768) float32 and (N,): a center for each class, and noise."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % classes)
    centers = np.random.default_rng(0).standard_normal((classes, WIDTH), dtype=np.float32)
    x = np.empty((count, WIDTH), dtype=np.float32)
    for first in range(0, count, 8192):
        rows = slice(first, first + 8192)
        x[rows] = 0.25 * centers[labels[rows]] + generator.standard_normal((len(labels[rows]), WIDTH), dtype=np.float32)
    return x, labels


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def centroid(who: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Run]:
    """Parts (draws), and the work."""
    if who == "umbel":
        return 1, lambda: iter([float(nearest_centroid(x, labels, shots=SHOTS, draws=DRAWS, seed=0).mean())])
    from sklearn.neighbors import NearestCentroid

    def loop() -> Iterator[float]:
        base = unit(x)
        for draw in range(DRAWS):
            rows = draw_support(labels, shots=SHOTS, seed=0, draw=draw)
            rest = np.setdiff1d(np.arange(len(x)), rows)
            mean = base[rows].mean((0, 1))
            support, asked = unit(base[rows] - mean), unit(base[rest] - mean)
            if who == "scikit-learn":
                model = NearestCentroid().fit(support.reshape(-1, WIDTH), np.repeat(np.arange(len(rows)), SHOTS))
                yield float((model.predict(asked) == labels[rest]).mean())
                continue
            centroids = support.mean(1)
            distance = (centroids**2).sum(1) - 2 * asked @ centroids.T
            yield float((distance.argmin(1) == labels[rest]).mean())

    return DRAWS, loop


def episodes(who: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Run]:
    if who == "umbel":
        given = {"ways": WAYS, "shots": SHOTS, "episodes": EPISODES, "seed": 0, "per_class": QUERIES}
        return 1, lambda: iter([float(episodic(x, labels, **given).accuracies.mean())])
    from sklearn.neighbors import NearestCentroid

    def loop() -> Iterator[float]:
        for episode in range(EPISODES):
            generator = np.random.default_rng([0, episode])
            chosen = generator.choice(int(labels.max()) + 1, WAYS, replace=False)
            rows = np.stack(
                [generator.choice(np.flatnonzero(labels == c), SHOTS + QUERIES, replace=False) for c in chosen]
            )
            base = unit(x[rows])
            mean = base[:, :SHOTS].mean((0, 1))
            support = unit(base[:, :SHOTS] - mean)
            asked, truth = unit(base[:, SHOTS:] - mean).reshape(-1, WIDTH), np.repeat(np.arange(WAYS), QUERIES)
            if who == "scikit-learn":
                model = NearestCentroid().fit(support.reshape(-1, WIDTH), np.repeat(np.arange(WAYS), SHOTS))
                yield float((model.predict(asked) == truth).mean())
                continue
            centroids = support.mean(1)
            yield float((((centroids**2).sum(1) - 2 * asked @ centroids.T).argmin(1) == truth).mean())

    return EPISODES, loop


def knn(who: str, x: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> tuple[int, Run]:
    if who == "umbel":
        return 1, lambda: iter([vote(x, labels, queries=asked, k=NEIGHBORS).accuracy(truth)[1]])
    block = 500

    def loop() -> Iterator[float]:
        if who == "scikit-learn":
            from sklearn.neighbors import KNeighborsClassifier

            model = KNeighborsClassifier(NEIGHBORS, algorithm="brute").fit(unit(x), labels)
        base = unit(x)
        for first in range(0, len(asked), block):
            part, right = unit(asked[first : first + block]), truth[first : first + block]
            if who == "scikit-learn":
                yield float((model.predict(part) == right).mean())
                continue
            cosine = part @ base.T
            near = labels[np.argpartition(-cosine, NEIGHBORS, axis=1)[:, :NEIGHBORS]]
            yield float(np.mean([np.bincount(row).argmax() == own for row, own in zip(near, right, strict=True)]))

    return -(-len(asked) // block), loop


def logistic(who: str, x: np.ndarray, labels: np.ndarray) -> tuple[int, Run]:
    """100 classes, as one fit of all of them would take scikit-learn most of a day."""
    if who == "umbel":

        def ours() -> Iterator[float]:
            x_, y = torch.from_numpy(x), torch.from_numpy(labels)
            w = fit(x_, y, int(labels.max()) + 1, strength=1e-3).float()
            yield float(((x_ @ w[:-1] + w[-1]).argmax(1) == y).float().mean())

        return 1, ours
    from sklearn.linear_model import LogisticRegression

    def theirs() -> Iterator[float]:
        yield float(LogisticRegression(C=1e-3, max_iter=200).fit(x, labels).score(x, labels))

    return 1, theirs


def child(task: str, who: str, scale: float, seconds: float, threads: int) -> None:
    """Run one contender and print what it took."""
    torch.set_num_threads(threads)
    classes = max(WAYS, round(4271 * scale))
    if task == "knn":
        x, labels = features(round(1_100_000 * scale), classes, 1)
        total, run = knn(who, x, labels, *features(round(100_000 * scale), classes, 2))
    elif task == "logistic":
        total, run = logistic(who, *features(max(200, round(LOGISTIC * scale * 4)), 100, 1))
    else:
        x, labels = features(round(100_000 * scale), classes, 1)
        total, run = (centroid if task == "centroid" else episodes)(who, x, labels)
    before, started, busy = peak(), time.perf_counter(), time.process_time()
    accuracies = []
    for accuracy in run():
        accuracies.append(accuracy)
        if time.perf_counter() - started > seconds:
            break
    taken, busy = time.perf_counter() - started, time.process_time() - busy
    share = len(accuracies) / total
    told = {"seconds": taken / share, "busy": busy / share, "share": share, "peak": peak(), "before": before}
    print(json.dumps(told | {"accuracy": float(np.mean(accuracies))}))


def peak() -> float:
    """Greatest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measure every contender and print a table for each task."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images and classes")
    parser.add_argument("--part", type=float, default=60.0, help="seconds after which a plain loop ends")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{in_words(setting(torch.device('cpu')))}, scikit-learn {version('scikit-learn')}, scale {options.scale:g}")
    environment = os.environ | {
        name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    for task in options.tasks:
        print(f"\n{task}\n| {'':<12} | seconds | CPU s | of umbel | done | accuracy | peak MB | of it before |")
        reference = float("nan")
        for who in CONTENDERS[task]:
            command = [sys.executable, __file__, "--child", task, who, str(options.scale), str(options.part)]
            done = subprocess.run(
                [*command, str(options.threads)], capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode:
                print(f"| {who:<12} | failed: {(done.stderr.splitlines() or ['killed'])[-1][:90]}", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            reference = row["busy"] if who == "umbel" else reference
            times = f"{row['seconds']:>7.1f} | {row['busy']:>5.0f} | {row['busy'] / reference:>8.2f}"
            memory = f"{row['peak']:>7.0f} | {row['before']:>12.0f}"
            print(
                f"| {who:<12} | {times} | {100 * row['share']:>3.0f}% | {row['accuracy']:.4f}   | {memory} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
