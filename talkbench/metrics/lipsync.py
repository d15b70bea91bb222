"""How well lips and sound agree, by SyncNet: the computation that all sync protocols share, as frames arrive.

For window i of five frames and shift k, d[i][k] is the distance between the lip feature and the audio feature
i + k - 15; audio outside the cut is a zero vector. m[k] is the mean over i. Sync-D = min m, Sync-C = median m - min m,
offset = 15 - argmin m in frames, positive if the picture is late (joonson/syncnet_python: SyncNetInstance.py,
`evaluate`). n = min(frames, whole 640-sample pieces of sound) - 5 windows count: one less than would fit.

Only the distances are kept, 124 bytes a frame. Network batches are aligned to the start of the cut (lips) and of the
sound, so no result depends on how either arrived.

Legend: T frames, N windows, K = 31 shifts, D features, M MFCC columns.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from talkbench.media import mfcc
from talkbench.media.clip import Frames, Samples
from talkbench.metrics import networks
from talkbench.metrics.base import Context
from talkbench.metrics.series import Terms
from talkbench.nets.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from talkbench.nets.syncnet import SyncNet

FRAME_RATE = 25
SAMPLES_PER_FRAME = mfcc.RATE_HZ // FRAME_RATE
COLUMNS_PER_FRAME = 4
WINDOW_FRAMES, WINDOW_COLUMNS = 5, 20
MAX_SHIFT = 15
NUM_SHIFTS = 2 * MAX_SHIFT + 1
EPSILON = 1e-6
"""Added to every component of a difference (torch.nn.functional.pairwise_distance)."""
BATCH_WINDOWS = 16
"""Of lips; twice as many of sound, which costs little."""
MIN_WINDOWS = 6
"""With fewer the zero vectors outside the cut decide alone; the official code divides by what it has."""

Features = NDArray[np.float32]


def checked(features_ND: Tensor) -> Features:
    """Return what SyncNet gave as an array.

    Raises:
        FloatingPointError: If it is not finite.
    """
    found: Features = features_ND.float().cpu().numpy()
    if not np.isfinite(found).all():
        raise FloatingPointError("SyncNet gives numbers that are not finite: are the weights whole?")
    return found


class Sound:
    """The clip's sound as audio features, one per frame, computed when they are asked for and not before."""

    def __init__(self, net: SyncNet, batch: Batch) -> None:
        self._net, self._batch = net, batch
        self._mfcc = mfcc.MfccStream()
        self._columns: deque[mfcc.Columns] = deque()
        self._first_column = 0
        self._num_columns = 0
        self._groups: dict[int, Features] = {}
        self._group_size = 2 * batch.size
        self.closed = False
        self.peak = 0.0

    @property
    def num_frames(self) -> int:
        """Whole frames of sound so far."""
        return self._mfcc.num_samples // SAMPLES_PER_FRAME

    @property
    def num_features(self) -> int:
        """Features that can be asked for now."""
        complete = max(0, (self._num_columns - WINDOW_COLUMNS) // COLUMNS_PER_FRAME + 1)
        return complete if self.closed else complete // self._group_size * self._group_size

    def hear(self, samples_N: Samples) -> None:
        """Take the next samples."""
        self.peak = max(self.peak, float(np.abs(samples_N).max(initial=0.0)))
        self._keep(self._mfcc.push(samples_N))

    def close(self) -> None:
        """Say that there is no more."""
        if not self.closed:
            self._keep(self._mfcc.finish())
            self.closed = True

    def feature(self, number: int) -> Features:
        """Return feature `number`, [D]; it must be below `num_features` and not forgotten."""
        group = number // self._group_size
        if group not in self._groups:
            self._groups[group] = self._compute(group)
        found: Features = self._groups[group][number % self._group_size]
        return found

    def forget(self, before: int) -> None:
        """Drop what only features below `before` need."""
        group = before // self._group_size
        for old in [number for number in self._groups if number < group]:
            del self._groups[old]
        while self._columns and self._first_column + len(self._columns[0]) <= self._column(group):
            self._first_column += len(self._columns.popleft())

    def _column(self, group: int) -> int:
        return group * self._group_size * COLUMNS_PER_FRAME

    def _keep(self, columns_MC: mfcc.Columns) -> None:
        if len(columns_MC):
            self._columns.append(columns_MC)
            self._num_columns += len(columns_MC)

    def _compute(self, group: int) -> Features:
        import torch

        start = self._column(group)
        stop = min(start + (self._group_size - 1) * COLUMNS_PER_FRAME + WINDOW_COLUMNS, self._num_columns)
        held_MC = np.concatenate(self._columns)[start - self._first_column : stop - self._first_column]
        windows = np.lib.stride_tricks.sliding_window_view(held_MC, WINDOW_COLUMNS, axis=0)[::COLUMNS_PER_FRAME]
        pairs = torch.split(torch.from_numpy(np.ascontiguousarray(windows)), 2)
        return checked(self._batch.run(lambda some: self._net.audio_features(torch.cat(some)), pairs))


@dataclass(frozen=True)
class Agreement:
    """What one cut of a clip says.

    Attributes:
        distances_NK: d[i][k], float32.
        first_frame: Of the cut.
        num_frames: Of the cut.
    """

    distances_NK: NDArray[np.float32]
    first_frame: int
    num_frames: int

    @property
    def means_K(self) -> NDArray[np.float64]:
        """m[k]."""
        return np.asarray(self.distances_NK.mean(axis=0, dtype=np.float64))

    @property
    def num_windows(self) -> int:
        """Windows that count; with fewer than `MIN_WINDOWS` the other numbers mean nothing."""
        return len(self.distances_NK)

    @property
    def best_shift(self) -> int:
        """Index of the least mean distance, 0 to 30."""
        return int(self.means_K.argmin())

    @property
    def confidence(self) -> float:
        """Sync-C."""
        return float(np.median(self.means_K) - self.means_K.min())

    @property
    def confidence_at_zero(self) -> float:
        """The same without search: how much better the sound fits as it is than shifted."""
        return float(np.median(self.means_K) - self.means_K[MAX_SHIFT])

    @property
    def distance(self) -> float:
        """Sync-D."""
        return float(self.means_K.min())

    @property
    def offset_frames(self) -> int:
        """Delay of the picture."""
        return MAX_SHIFT - self.best_shift

    def terms(self) -> Terms:
        """Return median m - d[i][best] per window at the time of its middle frame; their mean is the confidence.

        The official per-frame confidence is this after a running median of 9; means of windows need none.
        """
        terms = Terms()
        values = np.median(self.means_K) - self.distances_NK[:, self.best_shift].astype(np.float64)
        terms.add(values.tolist(), ((self.first_frame + 2 + np.arange(self.num_windows)) / FRAME_RATE).tolist())
        return terms


class Match:
    """One cut of the clip against its sound: consecutive 224x224 crops go in, distances stay.

    Args:
        net: SyncNet.
        sound: The whole clip's.
        first_frame: Where the cut begins.
        batch: Windows per call of the lip network.
    """

    def __init__(self, net: SyncNet, sound: Sound, first_frame: int, batch: Batch) -> None:
        self._net, self._sound, self._batch = net, sound, batch
        self._group_size = batch.size
        self._crops: list[Frames] = []
        self._lips: deque[Features] = deque()
        self._rows = array("f")
        self.first_frame = first_frame
        self.num_frames = 0
        self.ended = False

    @property
    def num_rows(self) -> int:
        """Windows whose distances are known."""
        return len(self._rows) // NUM_SHIFTS

    @property
    def _heard(self) -> int:
        """Frames of sound since the cut began; negative if it begins later."""
        return self._sound.num_frames - self.first_frame

    @property
    def oldest_feature(self) -> int:
        """The first audio feature of the clip that may still be asked for."""
        return self.first_frame + max(0, self.num_rows - MAX_SHIFT)

    def push(self, crop_HWC: Frames) -> None:
        """Take the next frame's crop, RGB."""
        self.num_frames += 1
        self._crops.append(crop_HWC)
        if len(self._crops) == self._group_size + WINDOW_FRAMES - 1:
            self._look()
        self.advance()

    def end(self) -> None:
        """Say that there are no more frames."""
        if not self.ended:
            if len(self._crops) >= WINDOW_FRAMES:
                self._look()
            self._crops = []
            self.ended = True
        self.advance()

    @property
    def complete(self) -> bool:
        """Whether neither more frames nor more sound can change the result."""
        heard = self._heard
        return self.ended and (self._sound.closed or heard >= self.num_frames) and not self._lips

    def advance(self) -> None:
        """Compute the distances that the sound so far allows."""
        heard = self._heard
        sure = min(self.num_frames, heard) - WINDOW_FRAMES
        final = self.ended and (self._sound.closed or heard >= self.num_frames)
        while self._lips:
            i = self.num_rows
            if final and i >= sure:
                self._lips.clear()
                break
            last = min(i + MAX_SHIFT, sure - 1)
            if (not final and last < i + MAX_SHIFT) or self.first_frame + last >= self._sound.num_features:
                break
            self._rows.extend(self._distances(i, sure, self._lips.popleft()).tolist())
        if self._sound.closed and not self.ended:
            # Lips beyond the end of the sound are never compared.
            while self._lips and self.num_rows + len(self._lips) > max(0, heard - WINDOW_FRAMES):
                self._lips.pop()

    def result(self) -> Agreement:
        """Return what is known; final once `complete`."""
        distances = np.array(self._rows, np.float32).reshape(-1, NUM_SHIFTS)
        return Agreement(distances, self.first_frame, self.num_frames)

    def _look(self) -> None:
        """Run the lip network over the crops that wait, and keep the last four for the next run."""
        if self._sound.closed and self.num_frames - len(self._crops) >= self._heard - WINDOW_FRAMES:
            self._crops = self._crops[1 - WINDOW_FRAMES :]  # what lies beyond the end of the sound is never compared
            return
        import torch

        frames_TCHW = torch.from_numpy(np.stack(self._crops)[..., ::-1].transpose(0, 3, 1, 2).copy())
        count = len(self._crops) - WINDOW_FRAMES + 1

        def lips(some: range) -> Tensor:
            return self._net.lip_features(frames_TCHW[some.start : some.stop + WINDOW_FRAMES - 1])

        self._lips.extend(checked(self._batch.run(lips, range(count))))
        self._crops = self._crops[count:]

    def _distances(self, i: int, num_windows: int, lip_D: Features) -> NDArray[np.float32]:
        audio_KD = np.zeros((NUM_SHIFTS, lip_D.size), np.float32)
        for k in range(NUM_SHIFTS):
            if 0 <= i + k - MAX_SHIFT < num_windows:
                audio_KD[k] = self._sound.feature(self.first_frame + i + k - MAX_SHIFT)
        difference_KD = lip_D - audio_KD + np.float32(EPSILON)
        distances_K = np.sqrt((difference_KD.astype(np.float64) ** 2).sum(axis=1))
        return np.asarray(distances_K, dtype=np.float32)


def load_syncnet(context: Context) -> SyncNet:
    """Return SyncNet with the weights at hand, on the context's device."""

    def build(path: Path) -> SyncNet:
        from talkbench.nets import syncnet
        from talkbench.weights import read

        state = read.state_dict(path)
        net = syncnet.sized_like(state)
        read.load_strict(net, state, path)
        return syncnet.ready(net)

    return networks.load(context, "syncnet", build)
