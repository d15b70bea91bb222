"""Motion smoothness as VBench defines it: how well AMT-S predicts every second frame from its neighbours.

Frames 0, 2, 4, ... are the inputs; the picture predicted halfway between two of them, cut off to 8 bits, is compared
with the frame that is there. Term = 255 minus the mean absolute difference in levels, over 255; score = their mean. All
frames count at the file's own rate, and with an even number the last one is not used. A frozen clip scores about 1.0.

Source: Vchitect/VBench 45e79ec: vbench/motion_smoothness.py. The official code reduces the size at which motion is
estimated when it believes that memory is short, but never does so from its command line; we do it only when asked
(`memory_heuristic_bytes`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks, vbench
from talkbench.metrics.base import Needs, Runner, Scores
from talkbench.metrics.series import Terms
from talkbench.nets.batches import Batch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from talkbench.nets.amt import AmtS

LEVELS = 255
BATCH_PAIRS = {"cpu": 1, "cuda": 4}
MIN_FRAMES = 3

# Of the official memory heuristic.
RESERVED_BYTES = 2500 << 20
ANCHOR_BYTES = 1500 << 20
ANCHOR_PX = 1024 * 512


@dataclass(frozen=True)
class SmoothnessParams(vbench.VBenchParams):
    """Parameters of motion smoothness.

    Attributes:
        scale: Size at which motion is estimated, as a share of full size; 16 divided by a whole number.
        memory_heuristic_bytes: Device memory from which the official code would derive `scale`; None for `scale`.
    """

    scale: float = 1.0
    memory_heuristic_bytes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale <= 1 or not math.isclose(16 / self.scale, round(16 / self.scale)):
            raise TalkbenchError(f"scale is {self.scale}; it must be 16 divided by a whole number of at least 16.")
        if self.memory_heuristic_bytes is not None and self.memory_heuristic_bytes <= RESERVED_BYTES:
            raise TalkbenchError(
                f"memory_heuristic_bytes is {self.memory_heuristic_bytes}; the official formula needs more than "
                f"{RESERVED_BYTES}."
            )

    def scale_for(self, height: int, width: int) -> float:
        """Return the scale for a frame size.

        Source: Vchitect/VBench 45e79ec: vbench/motion_smoothness.py.
        """
        if self.memory_heuristic_bytes is None:
            return self.scale
        room = math.sqrt((self.memory_heuristic_bytes - RESERVED_BYTES) / ANCHOR_BYTES)
        share = min(1.0, ANCHOR_PX / (height * width) * room)
        return 16 / math.floor(16 / math.sqrt(share))


class Held(NamedTuple):
    """A frame that later ones are compared with."""

    frame_HWC: Frames
    seconds: float
    piece: int


class Triple(NamedTuple):
    """Three frames in a row, the middle one to be predicted; of the whole clip's sequence, of a piece's, or of both."""

    first_HWC: Frames
    middle_HWC: Frames
    last_HWC: Frames
    seconds: float
    in_clip: bool
    piece: int | None


class SmoothnessRunner(Runner):
    """`vbench.motion_smoothness` in [0, 1], higher is smoother."""

    name = "smoothness"
    version = "2"
    outputs = vbench.outputs(
        "motion_smoothness",
        "Motion-S",
        "How well frames are predicted by their neighbours (VBench motion smoothness)",
        sampled=True,  # one term per two frames: periods in it are not periods in frames
    )
    needs = Needs(weights=("amt",))
    params_type = SmoothnessParams

    def start(self, clip: ClipFacts) -> None:
        """Load the network if this process has not, and forget the previous clip.

        Raises:
            Unscorable: If frames are too small for the network.
        """
        from talkbench.nets.amt import MIN_SIDE_PX

        self._scale = self.params.scale_for(clip.height, clip.width)
        multiple = round(16 / self._scale)
        short_px = math.ceil(min(clip.height, clip.width) / multiple) * 16
        if short_px < MIN_SIDE_PX:
            raise Unscorable(
                "too-small",
                f"motion smoothness needs sides of {MIN_SIDE_PX} px, and the clip ({clip.width}x{clip.height}) "
                f"has {short_px} after padding and scaling",
            )
        self._compared = self._network(multiple)
        self._batch = Batch(self._whole_batch)
        self._frame_seconds = 1 / float(clip.frame_rate)
        self._held: deque[Held] = deque(maxlen=2)
        self._waiting: list[Triple] = []
        self._terms = Terms()
        self._pieces = vbench.Pieces(self.params.piece_seconds)
        self._piece_start = 0
        self._num_frames = 0

    @property
    def _whole_batch(self) -> int:
        return BATCH_PAIRS["cuda" if self.context.device.startswith("cuda") else "cpu"]

    def _build(self, path: Path) -> AmtS:
        from talkbench.nets.amt import AmtS
        from talkbench.weights import read

        net = AmtS()
        read.load_strict(net, read.state_dict(path), path)
        vbench.prepared(net, self.params)
        return net

    def _network(self, multiple: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return what turns three stacks of frames into terms."""
        from talkbench.nets import resize

        device, scale = self.context.device, self._scale
        net = networks.load(self.context, "amt", self._build, variant="compiled" if self.params.compile else "")

        def picture(frames_BHWC: Tensor) -> Tensor:
            return frames_BHWC.to(device).permute(0, 3, 1, 2)

        def terms(first_BHWC: Tensor, middle_BHWC: Tensor, last_BHWC: Tensor) -> Tensor:
            padded = [resize.pad_to_multiple(picture(frames) / LEVELS, multiple) for frames in (first_BHWC, last_BHWC)]
            with vbench.casting(self.params, device):
                predicted_BCHW = net(padded[0][0], padded[1][0], scale)[..., *padded[0][1]]
            if not predicted_BCHW.isfinite().all():
                raise FloatingPointError("the amt network predicted a picture that is not finite")
            difference = resize.truncated_to_levels(predicted_BCHW).short() - picture(middle_BHWC)
            total_B = difference.abs().sum(dim=(1, 2, 3)).cpu().double()
            return 1 - total_B / middle_BHWC[0].numel() / LEVELS

        return terms

    def update(self, batch: FrameBatch) -> None:
        """Predict each middle frame as soon as its two neighbours are there."""
        for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T.tolist(), strict=True):
            self._take(frame_HWC, at)
            if len(self._waiting) == self._whole_batch:
                self._predict()

    def _take(self, frame_HWC: Frames, at: float) -> None:
        piece = self._pieces.index(at)
        if not self._held or piece != self._held[-1].piece:
            self._piece_start = self._num_frames
        # A copy, so that what waits does not keep a whole batch of decoded frames alive.
        held = Held(frame_HWC.copy(), at, piece)
        if len(self._held) == 2:
            first, middle = self._held
            number = self._num_frames - 2
            in_piece = first.piece == piece and (number - self._piece_start) % 2 == 0
            if number % 2 == 0 or in_piece:
                triple = Triple(
                    first.frame_HWC,
                    middle.frame_HWC,
                    held.frame_HWC,
                    middle.seconds,
                    in_clip=number % 2 == 0,
                    piece=piece if in_piece else None,
                )
                self._waiting.append(triple)
        self._held.append(held)
        self._num_frames += 1

    def _predict(self) -> None:
        import torch

        waiting, self._waiting = self._waiting, []
        stacks = [torch.from_numpy(np.stack(frames)) for frames in list(zip(*waiting, strict=True))[:3]]
        for triple, term in zip(waiting, self._batch.run(self._compared, *stacks).tolist(), strict=True):
            if triple.in_clip:
                self._terms.add([term], [triple.seconds])
            if triple.piece is not None:
                self._pieces.add(triple.piece, term)

    def finish(self) -> Scores:
        """Return the mean over predictions, and over pieces of two seconds."""
        if self._waiting:
            self._predict()
        if self._num_frames < MIN_FRAMES:
            raise Unscorable(
                "too-short" if self._num_frames > 1 else "one-frame",
                f"motion smoothness needs {MIN_FRAMES} frames, and the clip has {self._num_frames}",
            )
        end_seconds = self._held[-1].seconds + self._frame_seconds
        found = vbench.scores(self.outputs, self._terms, self._pieces, end_seconds)
        if self._scale != 1:
            found.details["scale"] = self._scale
        found.details.update(self._batch.halved())
        return found
