"""The training set: a list of cursors becomes a batch, whoever asks for it.

A bad photograph never moves the order: its slot is filled by the preceding good sample of the batch (the first good
one where none precedes), and the batch tells which it was.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from umbel.data.balance import ClassBalance
from umbel.data.batch import Batch, canvas_shape, fill_slots, to_canvas
from umbel.data.canvas_pool import CanvasPool
from umbel.data.decode import decode
from umbel.data.index import ShardSet
from umbel.data.order import Mix, epoch_order, epoch_windows
from umbel.data.photograph import BadPhotographError
from umbel.data.reader import ShardReader, Unreadable
from umbel.data.shard_cache import GIB
from umbel.data.unreadable import UnreadableShardError
from umbel.run import UserError


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """One pass of one set."""

    order: np.ndarray  # (N,) samples of the whole
    windows: list[np.ndarray]  # shards of the whole, window by window
    ends: np.ndarray  # (number of windows,) positions behind each window


class TrainingDataset(Dataset[Batch]):
    """Turns a list of cursors into a Batch.

    Args:
        weights: ship each sample's weight: `weight` in its JSON, 1 without.
        text: ship each sample's text.
        balance: how often each sample comes in an epoch, in place of once; for a set that nothing is mixed into.

    Raises:
        UserError: the cache of remote shards cannot hold two windows.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        seed: int,
        canvas: int,
        window: int,
        unreadable_shards: Unreadable = "stop",
        weights: bool = False,
        text: bool = False,
        balance: ClassBalance | None = None,
    ) -> None:
        self.mix = shards.mix or Mix(shards=(len(shards.shards),), weights=(1,), epoch=len(shards))
        self.reader = ShardReader(shards, window=window * len(self.mix.shards))
        self.pool: CanvasPool | None = None
        """Memory that workers put canvases into."""
        self.seed, self.canvas, self.window = seed, canvas, window
        self.unreadable_shards, self.weights, self.text, self.balance = unreadable_shards, weights, text, balance
        counts = np.array([shard.count for shard in shards.shards])
        self.counts = np.split(counts, np.cumsum(self.mix.shards)[:-1])
        self.sizes = [int(of_set.sum()) for of_set in self.counts]
        self._epochs: dict[tuple[int, int], _Epoch] = {}
        self._entered: set[tuple[int, int, int]] = set()
        self._refuse_small_cache()

    def __len__(self) -> int:
        return self.mix.epoch

    def __getitem__(self, cursor: int) -> Batch:
        return self.__getitems__([cursor])

    def __getitems__(self, cursors: Sequence[int]) -> Batch:
        cursor = np.asarray(cursors, dtype=np.int64)
        epoch, position = np.divmod(cursor, len(self))
        places = [self._place(int(c)) for c in cursor]
        self._enter({(number, own_epoch, window) for number, own_epoch, window, _ in places})
        sample = np.array([sample for *_, sample in places])
        images: list[Tensor | None] = []
        weights, texts = np.zeros(len(sample), np.float32), [""] * len(sample)
        bad: list[tuple[int, str]] = []
        for row, number in enumerate(sample.tolist()):
            try:
                image = decode(self.reader.read(number, "jpg"), canvas=self.canvas)
                weight = self._weight(number) if self.weights else 0
                text = self._text(number) if self.text else ""
            except (BadPhotographError, UnreadableShardError) as error:
                if isinstance(error, UnreadableShardError) and self.unreadable_shards == "stop":
                    raise
                images.append(None)
                bad.append((number, str(error)))
            else:
                images.append(image)
                weights[row], texts[row] = weight, text
        filled = fill_slots(images)
        place = None if self.pool is None else self.pool.take(canvas_shape(filled))
        canvas, size = to_canvas(filled, place)
        good = np.array([image is not None for image in images])
        label = np.where(good, self.reader.shards.members["label"][sample], -1).astype(np.int64)
        return Batch(
            canvas=canvas,
            size=size,
            cursor=cursor,
            epoch=epoch,
            position=position,
            sample=sample,
            label=label,
            bad=bad,
            place=place,
            weight=weights if self.weights else None,
            text=texts if self.text else None,
        )

    def shard_of(self, cursor: int) -> int:
        """The shard that a cursor's sample lies in."""
        return int(self.reader.shards.members["shard"][self._place(cursor)[3]])

    def _place(self, cursor: int) -> tuple[int, int, int, int]:
        """A cursor's set, with that set's epoch, window and sample."""
        number, own = self.mix.place(cursor)
        own_epoch, position = divmod(own, self.sizes[number])
        epoch = self._epoch(number, own_epoch)
        window = int(np.searchsorted(epoch.ends, position, side="right"))
        return number, own_epoch, window, int(epoch.order[position])

    def _epoch(self, number: int, epoch: int) -> _Epoch:
        """A set's epoch; two are kept, since a batch may reach over an epoch's end."""
        if (number, epoch) not in self._epochs:
            self._epochs = {at: kept for at, kept in self._epochs.items() if at[0] != number or at[1] == epoch - 1}
            counts, arguments = self.counts[number], {"seed": self.seed, "epoch": epoch, "window": self.window}
            windows = epoch_windows(counts, **arguments, set_number=number)
            first_shard = sum(self.mix.shards[:number])
            first_sample = sum(self.sizes[:number])
            ends = np.cumsum([counts[shards].sum() for shards in windows])
            order = epoch_order(counts, **arguments, set_number=number) + first_sample
            if self.balance is not None:
                order, ends = self.balance.order(order, ends, epoch)
            self._epochs[number, epoch] = _Epoch(
                order=order, windows=[shards + first_shard for shards in windows], ends=ends
            )
        return self._epochs[number, epoch]

    def _enter(self, windows: set[tuple[int, int, int]]) -> None:
        """Close the shards of windows left behind, and fetch those of the next ones where they are remote."""
        if windows == self._entered:
            return
        self._entered = windows
        self.reader.keep({int(s) for number, epoch, at in windows for s in self._epoch(number, epoch).windows[at]})
        if self.reader.shards.cache is not None:
            following = [self._epoch(number, epoch).windows[at + 1 :] for number, epoch, at in sorted(windows)]
            mine = [int(shard) for later in following if later for shard in later[0]]
            worker = get_worker_info()
            if worker is not None:
                mine = mine[worker.id :: worker.num_workers]
            threading.Thread(target=self._fetch_ahead, args=(mine,), daemon=True).start()

    def _fetch_ahead(self, shards: list[int]) -> None:
        """Fetch shards that will be wanted; whatever hinders it is said when one is wanted."""
        cache = self.reader.shards.cache
        for number in shards:
            shard = self.reader.shards.shards[number]
            if cache is not None and shard.url is not None:
                with contextlib.suppress(OSError, UserError):
                    cache.fetch(
                        shard.url,
                        shard.path,
                        size=shard.bytes,
                        sha256=shard.sha256,
                        progress=lambda: None,
                        wait=False,
                    )

    def _weight(self, sample: int) -> float:
        content = self.reader.read(sample, "json")
        try:
            weight = float(json.loads(content or b"{}").get("weight", 1.0))
            if not 0 <= weight <= np.finfo(np.float32).max:
                raise ValueError
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            key = self.reader.shards.key(sample)
            raise UserError(f"sample '{key}': the weight in {key}.json is not a number from 0.") from error
        return weight

    def _text(self, sample: int) -> str:
        return self.reader.read(sample, "txt").decode("utf-8", "replace")

    def _refuse_small_cache(self) -> None:
        cache, shards = self.reader.shards.cache, self.reader.shards.shards
        if cache is None:
            return
        sizes = np.split(np.array([s.bytes if s.url else 0 for s in shards]), np.cumsum(self.mix.shards)[:-1])
        needed = 2 * sum(int(np.sort(of_set)[-self.window :].sum()) for of_set in sizes)
        if min(needed, sum(int(of_set.sum()) for of_set in sizes)) > cache.limit:
            raise UserError(
                f"two windows of {self.window} shards take up to {needed / GIB:.3g} GiB, and the cache of remote "
                f"shards holds {cache.limit / GIB:.3g}: raise --reader.cache-gib, or lower --reader.window."
            )
