"""Search in codes, measured: queries a second, time of a single query and memory, beside search in float features.

Clustered features (--width) become 64-bit codes by random hyperplanes. Codes are searched at a million and at ten
million, by numpy where they lie, by faiss's exact index and by its inverted lists; the floats they are made of at a
million, by faiss and by numpy. Every contender runs in a process of its own, so that the peak of memory is its own;
what an idle process takes is subtracted. --scale makes all of it smaller.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch

from umbel.evaluation.hashing import LSH, Codes, hamming_search, pack
from umbel.evaluation.hashing.codes import INDEX
from umbel.evaluation.hashing.finder import Finder
from umbel.evaluation.hashing.index import build_index, open_index, search_lists
from umbel.evaluation.hashing.search import search_flat
from umbel.run import processors

BITS, TOP, CLUSTERS, AT_ONCE = 64, 10, 5000, 50_000
SIZES = {"1M": 1_000_000, "10M": 10_000_000}
CONTENDERS = ("idle", "numpy", "faiss", "faiss IVF", "float numpy", "float faiss")
Search = Callable[[np.ndarray], np.ndarray]
"""Queries (Q, ...) to the rows found, (Q, TOP)."""


def counts(scale: float) -> dict[str, int]:
    """How many there are of each size."""
    return {name: max(round(size * scale), 200) for name, size in SIZES.items()}


def prepare(folder: Path, scale: float, width: int, queries: int) -> None:
    """Write features of the smaller size, codes of both, and queries near them."""
    count = counts(scale)
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((CLUSTERS, width), dtype=np.float32)

    def draw(rows: int) -> np.ndarray:
        noise = generator.standard_normal((rows, width), dtype=np.float32)
        return centers[generator.integers(0, CLUSTERS, rows)] + 0.5 * noise

    coder = LSH(BITS).fit(draw(10_000))
    asked = draw(queries)
    np.save(folder / "queries.npy", asked)
    np.save(folder / "query_codes.npy", pack(coder.encode(asked)))
    floats = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (count["1M"], width))
    packed = np.empty((count["10M"], BITS // 8), np.uint8)
    for first in range(0, count["10M"], AT_ONCE):
        rows = slice(first, min(first + AT_ONCE, count["10M"]))
        features = draw(rows.stop - rows.start)
        packed[rows] = pack(coder.encode(features))
        if first < len(floats):
            floats[first : rows.stop] = features[: len(floats) - first]
    for name in SIZES:
        zeros = np.zeros(count[name], np.int64)
        keys = tuple(f"plant_{row:08d}" for row in range(count[name]))
        named: dict[str, Any] = {"label": zeros, "split": zeros, "keys": keys, "splits": ("train",), "classes": ()}
        Codes(packed=packed[: count[name]], bits=BITS, **named).save(folder / name)


def open_contender(name: str, folder: Path, size: str) -> Search | None:
    """What answers, ready."""
    if name in ("idle", "prepare"):
        return None
    if name.startswith("float"):
        floats = np.load(folder / "features.npy", mmap_mode="r")
        if name == "float faiss":
            import faiss

            index = faiss.IndexFlatIP(floats.shape[1])
            for first in range(0, len(floats), AT_ONCE):
                index.add(np.ascontiguousarray(floats[first : first + AT_ONCE]))
            return lambda queries: index.search(queries, TOP)[1]
        held = np.array(floats)
        return lambda queries: np.concatenate(
            [_best(held, queries[row : row + 16]) for row in range(0, len(queries), 16)]
        )
    codes = Codes.load(folder / size)
    if name == "faiss IVF":
        told = json.loads((folder / size / "index.json").read_text())
        lists = open_index(folder / size / INDEX, codes.packed, told)
        return lambda queries: search_lists(lists, queries, TOP, told["probes"])[1]
    if name == "faiss":
        flat = Finder(codes, folder / size, exact=True, queries=10**9).index
        return lambda queries: search_flat(flat, queries, TOP)[1]
    return lambda queries: hamming_search(queries, codes.packed, TOP, engine="numpy")[1]


def _best(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    scores = queries @ features.T
    best = np.argpartition(scores, -TOP, axis=1)[:, -TOP:]
    order = np.argsort(np.take_along_axis(-scores, best, 1), axis=1)
    found: np.ndarray = np.take_along_axis(best, order, 1)
    return found


def build(folder: Path, size: str) -> dict[str, Any] | None:
    """The index of one size, and how long it took."""
    codes = Codes.load(folder / size)
    started = time.perf_counter()
    told = build_index(codes.packed, BITS, folder / size / INDEX, "ivf")
    (folder / size / "index.json").write_text(json.dumps(told))
    return None if told is None else told | {"seconds": round(time.perf_counter() - started, 1)}


def measure(name: str, folder: Path, size: str, seconds: float) -> dict[str, Any]:
    """Of one contender, in this process: single queries for `seconds`, and all of them at once."""
    started = time.perf_counter()
    search = open_contender(name, folder, size)
    opened = time.perf_counter() - started
    told: dict[str, Any] = {"opened": round(opened, 3)}
    if search is not None:
        queries = np.load(folder / ("queries.npy" if name.startswith("float") else "query_codes.npy"))
        search(queries[:1])
        single: list[float] = []
        while sum(single) < seconds or len(single) < 5:
            row = len(single) % len(queries)
            started = time.perf_counter()
            search(queries[row : row + 1])
            single.append(time.perf_counter() - started)
        started = time.perf_counter()
        search(queries)
        took = time.perf_counter() - started
        told |= {"p50_ms": 1000 * float(np.median(single)), "p99_ms": 1000 * float(np.quantile(single, 0.99))}
        told |= {"singles": len(single), "per_second": len(queries) / took}
    return told | {"peak_mb": peak()}


def peak() -> float:
    """This process's peak of memory in MB; getrusage's is at least that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def alone(*arguments: object) -> dict[str, Any]:
    """One step in a process of its own; its last line is its answer."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def line(name: str, count: int, row: dict[str, Any], idle: float) -> str:
    """A row for people."""
    numbers = f"{row['per_second']:>9,.0f}  {row['p50_ms']:>9.2f}  {row['p99_ms']:>9.2f}  {row['opened']:>9.2f}"
    return f"{name:<12}  {count:>10,}  {numbers}  {row['peak_mb'] - idle:>9,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--width", type=int, default=384, help="of the float features")
    parser.add_argument("--queries", type=int, default=1000, help="of a batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of single queries for each contender")
    parser.add_argument("--folder", type=Path, help="for the data (a temporary one if not given)")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, size = options.step
        if name == "prepare":
            prepare(options.folder, options.scale, options.width, options.queries)
        found = build(options.folder, size) if name == "build" else measure(name, options.folder, size, options.seconds)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        setting = measuring.setting(torch.device("cpu")) | {"processors": processors()}
        setting["faiss"] = measuring.version_of("faiss-cpu")
        print(measuring.in_words(setting))
        print(f"faiss {setting['faiss']}, {processors()} processors; {BITS} bits, top {TOP}, scale {options.scale:g}")
        sizes = ("--scale", options.scale, "--width", options.width, "--queries", options.queries)
        alone(*sizes, "--folder", folder, "--step", "prepare", "1M")
        common = ("--folder", folder, "--seconds", options.seconds, "--step")
        idle = alone(*common, "idle", "1M")["peak_mb"]
        builds = {size: alone(*common, "build", size) for size in SIZES} if setting["faiss"] else {}
        for size, told in builds.items():
            print(f"index of {counts(options.scale)[size]:,}: {told}")
        rows = {}
        columns = ("queries/s", "p50 ms", "p99 ms", "opened s", "peak MB")
        head = "  ".join(f"{column:>9}" for column in columns)
        print(f"{'':<12}  {'count':>10}  {head} (above {idle:,.0f} of an idle process)")
        for size in SIZES:
            for name in CONTENDERS[1:]:
                if (name.startswith("float") and size != "1M") or ("faiss" in name and not setting["faiss"]):
                    continue
                rows[f"{name}, {size}"] = row = alone(*common, name, size)
                print(line(name, counts(options.scale)[size], row, idle), flush=True)
        if options.out is not None:
            told = {"setting": setting, "scale": options.scale, "width": options.width, "idle_mb": idle}
            options.out.write_text(json.dumps(told | {"indexes": builds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
