"""How fast photographs reach the trainer, beside the usual ways, in one run on this machine: images/s and ratios.

python benchmarks/data.py PHOTOGRAPHS ...     (folders of JPEG files or of shards)
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command sets it, before torch is imported

import argparse
import contextlib
import io
import itertools
import multiprocessing
import platform
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision
import webdataset
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from umbel import __version__
from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.data.batch import Batch, to_canvas
from umbel.data.decode import decode
from umbel.data.index import ShardSet, open_shards
from umbel.data.index_file import write_index
from umbel.data.order import CursorSampler, Slices, epoch_order
from umbel.data.photograph import read_photograph
from umbel.data.reader import ShardReader
from umbel.data.scan import MEMBER, ScannedShard, Shard
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches

WORKERS = 2
CANVAS = 512
SIZES = ((375, 500), (1024, 1365))
VIEWS = ViewsConfig()


def main() -> None:
    """Measure both sizes, the disk, and an epoch of a million samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=512, help="images of a pass")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="passes of every contender, in turn; the median counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, webdataset {webdataset.__version__}"
    print(f"umbel {__version__} {commit or '(no git)'}, {versions}, Pillow {Image.__version__}")
    print(f"{platform.machine()}, {psutil.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {arguments.device}")
    sources = find_sources(arguments.photographs)
    print(f"{len(sources)} photographs; {WORKERS} workers for every contender; median of {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            folder = Path(scratch) / f"{size[0]}"
            jpgs = write_set(folder, sources, arguments.count, size)
            measure(folder, jpgs, size, arguments)
            measure_disk(open_shards(str(folder)))
        measure_million(Path(scratch) / "million", next(Path(scratch).glob(f"{SIZES[0][0]}/files/all/*")).read_bytes())


def find_sources(folders: Sequence[Path]) -> list[bytes | Path]:
    """JPEG files below the folders, and the members of shards in them."""
    found: list[bytes | Path] = []
    for folder in folders:
        found += sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if any(folder.glob("*.tar")):
            shards = open_shards(str(folder))
            reader = ShardReader(shards)
            found += [reader.read(sample, "jpg") for sample in range(0, len(shards), max(1, len(shards) // 128))]
    return found


def write_set(folder: Path, sources: Sequence[bytes | Path], count: int, size: tuple[int, int]) -> list[bytes]:
    """Photographs of one size (upright ones stay upright) as shards of 64 and, below `files/all`, as files."""
    (folder / "files" / "all").mkdir(parents=True)
    jpgs = []
    for source in sources:
        image = read_photograph(source)
        height, width = size if image.width >= image.height else size[::-1]
        buffer = io.BytesIO()
        ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        jpgs.append(buffer.getvalue())
    jpgs = list(itertools.islice(itertools.cycle(jpgs), count))
    for first in range(0, count, 64):
        with tarfile.open(folder / f"train-{first // 64:06d}.tar", "w") as tar:
            for number, jpg in enumerate(jpgs[first : first + 64], first):
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = len(jpg)
                tar.addfile(member, io.BytesIO(jpg))
                (folder / "files" / "all" / member.name).write_bytes(jpg)
    return jpgs


def measure(folder: Path, jpgs: list[bytes], size: tuple[int, int], arguments: argparse.Namespace) -> None:
    """Every contender in turn, round after round."""
    batch, device = arguments.batch, torch.device(arguments.device)
    steps, few = len(jpgs) // batch, len(jpgs) // 4  # views take long: a quarter of the images tells as much
    shards = open_shards(str(folder))
    make_views = Views(VIEWS, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=device)

    @contextlib.contextmanager
    def reader(steps: int = steps) -> Iterator[Iterator[Batch]]:
        dataset = TrainingDataset(shards, seed=0, canvas=CANVAS, window=8)
        sampler = CursorSampler(Slices(micro_batch=batch), first=0, last=steps)
        with training_batches(dataset, sampler, collate=as_it_is, workers=WORKERS, pin=False) as batches:
            yield batches

    def views_of(batch: Batch) -> None:
        make_views(batch.canvas.to(device), batch.size, batch.epoch, batch.position)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def passed(dataset: Dataset[Any]) -> float:
        loader = DataLoader(Subset(dataset, range(few)), batch, shuffle=True, num_workers=WORKERS)
        return rate(contextlib.nullcontext(iter(loader)), as_it_is, few)

    def stream() -> contextlib.nullcontext[Iterator[Any]]:
        urls = sorted(str(path) for path in folder.glob("*.tar"))
        pipeline = webdataset.WebDataset(urls, shardshuffle=False).shuffle(1000).to_tuple("jpg").map(decode_tuple)
        batched = pipeline.batched(batch, collation_fn=to_canvas, partial=True)
        return contextlib.nullcontext(iter(webdataset.WebLoader(batched, batch_size=None, num_workers=WORKERS)))

    files = str(folder / "files")
    contenders: dict[str, Callable[[], float]] = {
        "(i) decoding alone": lambda: decoding_alone(jpgs),
        "(ii) reader into batches": lambda: rate(reader(), as_it_is, len(jpgs)),
        "(c) plain webdataset into batches": lambda: rate(stream(), as_it_is, len(jpgs)),
        f"(iii) reader and views ({device})": lambda: rate(reader(few // batch), views_of, few),
        "(a) Pillow, 12 bicubic crops and jitter in workers": lambda: passed(PillowViews(files)),
        "(b) torchvision decode and v2 transforms in workers": lambda: passed(TensorViews(files)),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, contender in contenders.items():
            times[name].append(contender())
    found = {name: statistics.median(values) for name, values in times.items()}
    kilobytes = statistics.mean(map(len, jpgs)) / 1000
    print(f"\n{size[0]} x {size[1]} px, {kilobytes:.0f} kB each, canvas {CANVAS}, {VIEWS.local_views} + 2 views")
    for name, value in found.items():
        spread = f"{min(times[name]):.0f} to {max(times[name]):.0f}"
        print(f"{name:<54} {value:7.0f} images/s  ({spread})")
    alone, batches, streamed, ours, pillow, tensors = found.values()
    print(f"reader / decoding alone {batches / alone:.2f}; reader / webdataset {batches / streamed:.2f}")
    print(f"reader and views / Pillow pipeline {ours / pillow:.2f}; / torchvision v2 {ours / tensors:.2f}")


def decoding_alone(jpgs: list[bytes]) -> float:
    """Images a second of processes that do nothing else."""
    context = multiprocessing.get_context("fork")
    begin, times = context.Barrier(WORKERS), context.SimpleQueue()

    def work(part: list[bytes]) -> None:
        torch.set_num_threads(1)
        decode(part[0], canvas=CANVAS)
        begin.wait()
        started = time.perf_counter()
        for jpg in part:
            decode(jpg, canvas=CANVAS)
        times.put((started, time.perf_counter()))

    processes = [context.Process(target=work, args=(jpgs[number::WORKERS],)) for number in range(WORKERS)]
    for process in processes:
        process.start()
    spans = [times.get() for _ in processes]
    for process in processes:
        process.join()
    return len(jpgs) / (max(end for _, end in spans) - min(start for start, _ in spans))


def rate(source: contextlib.AbstractContextManager[Iterator[Any]], use: Callable[[Any], object], count: int) -> float:
    """Images a second after the first batch of each worker: these are made side by side and arrive together."""
    batches, started = 0, time.perf_counter()
    with source as items:
        for item in items:
            use(item)
            batches += 1
            if batches == WORKERS:
                started = time.perf_counter()
        seconds = time.perf_counter() - started
    if batches < 3 * WORKERS:
        raise SystemExit(f"{batches} batches are too few to time: raise --count, or lower --batch.")
    return count * (batches - WORKERS) / batches / seconds


class PillowViews(torchvision.datasets.ImageFolder):
    """The usual pipeline: Pillow crops and jitters each view in the workers."""

    def __init__(self, root: str) -> None:
        def views(side: int, area: tuple[float, float]) -> v2.Compose:
            crop = v2.RandomResizedCrop(side, area, VIEWS.aspect, interpolation=v2.InterpolationMode.BICUBIC)
            return v2.Compose([crop, *AUGMENT, v2.PILToTensor(), *TO_FLOAT])

        super().__init__(root)
        self.views = [views(VIEWS.global_size, VIEWS.global_area)] * 2
        self.views += [views(VIEWS.local_size, VIEWS.local_area)] * VIEWS.local_views

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        image = self.loader(self.samples[index][0])
        return [view(image) for view in self.views]


class TensorViews(PillowViews):
    """The same transforms on uint8 tensors that torchvision decodes."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        for view in self.views:
            view.transforms = [t for t in view.transforms if not isinstance(t, v2.PILToTensor)]
        self.loader = lambda path: decode_image(path, mode=ImageReadMode.RGB)


AUGMENT = [v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.2, 0.1)]
TO_FLOAT = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(INAT_PLANTAE_MEAN, INAT_PLANTAE_STD)]


def decode_tuple(sample: tuple[bytes]) -> torch.Tensor:
    """A webdataset tuple's photograph."""
    return decode(sample[0], canvas=CANVAS)


def as_it_is(item: Any) -> Any:
    """A batch is used by nobody."""
    return item


def measure_disk(shards: ShardSet) -> None:
    """Random seeks in a window's order against streaming whole shards, with nothing of them in the page cache."""

    def forget() -> None:
        for shard in shards.shards:
            with shard.path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def seek(window: int) -> int:
        counts = np.array([shard.count for shard in shards.shards])
        reader = ShardReader(shards, window=window)
        return sum(len(reader.read(int(n), "jpg")) for n in epoch_order(counts, seed=0, epoch=0, window=window))

    def stream() -> int:
        return sum(len(shard.path.read_bytes()) for shard in shards.shards)

    ways: dict[str, Callable[[], int]] = {
        "streaming whole shards": stream,
        "seeks, window 1": lambda: seek(1),
        "seeks, window 8": lambda: seek(8),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            forget()
            started = time.perf_counter()
            size = way()
            times[name].append(size / (time.perf_counter() - started))
    print(f"\nreading {len(shards)} photographs from a cold page cache, no decoding, one process")
    for name, rates in times.items():
        ratio = statistics.median(rates) / statistics.median(times["streaming whole shards"])
        print(f"{name:<54} {statistics.median(rates) / 1e6:7.0f} MB/s   {ratio:.2f} of streaming")


def measure_million(folder: Path, jpg: bytes, *, shards: int = 1100, count: int = 1000) -> None:
    """Opening, ordering and resuming an epoch of 1.1 million samples (files with holes, one photograph in each)."""
    folder.mkdir()
    scanned, members = [], np.zeros(count, MEMBER)
    members["label"], members["jpg_offset"], members["jpg_bytes"] = -1, 512, len(jpg)
    for number in range(shards):
        path = folder / f"train-{number:06d}.tar"
        with path.open("wb") as file:
            file.seek(512)
            file.write(jpg)
            file.truncate(100_000_000)
        shard = Shard(path=path, split="train", count=count, bytes=path.stat().st_size, sha256=None)
        keys = [f"photograph_{number:05d}_{row:06d}".encode() for row in range(count)]
        scanned.append(ScannedShard(shard=shard, members=members.copy(), keys=keys))
    write_index(folder, scanned, [])
    print(f"\n{shards * count:,} samples in {shards} shards")
    started = time.perf_counter()
    opened = open_shards(str(folder))
    print(f"{'opening the index':<54} {time.perf_counter() - started:7.2f} s")
    started = time.perf_counter()
    epoch_order(np.full(shards, count), seed=0, epoch=0, window=8)
    print(f"{'order of an epoch':<54} {time.perf_counter() - started:7.2f} s")
    for share in (0.0, 0.9, 0.0, 0.9):
        step = int(share * shards * count) // 64
        sampler = CursorSampler(Slices(micro_batch=64), first=step, last=step + 20)
        dataset = TrainingDataset(opened, seed=0, canvas=CANVAS, window=8)
        started = time.perf_counter()
        with training_batches(dataset, sampler, collate=as_it_is, workers=WORKERS, pin=False) as batches:
            next(batches)
            print(f"{f'first batch at {share:.0%} of an epoch':<54} {time.perf_counter() - started:7.2f} s")
            own = [child.memory_full_info().uss for child in psutil.Process().children()]
    held = opened.members.nbytes + opened.keys.nbytes
    print(f"index {held / 2**20:.0f} MiB, mapped; memory of a worker's own {max(own) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
