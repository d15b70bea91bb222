"""Faces in frames, found by S3FD as the official sync pipeline finds them.

Each frame at a quarter of its size; faces with a probability above 0.9, overlapping ones removed at IoU 0.3 and again
at 0.1, best first (joonson/syncnet_python: run_pipeline.py, `inference_video`, and detectors/s3fd). The official code
starts from all boxes above 0.05: those up to 0.9 come later in the order and can remove none that we keep.

Legend: T frames, P candidate boxes, F faces; boxes are left, top, right, bottom in pixels of the frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from talkbench.media.clip import Frames
from talkbench.metrics import networks
from talkbench.metrics.base import Context
from talkbench.metrics.crops import Boxes, quarter
from talkbench.nets.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from talkbench.nets.s3fd import S3FD

MAX_CANDIDATES = 5000
MAX_FACES = 750
CANDIDATE_OVERLAP = 0.3
FACE_OVERLAP = 0.1


def overlaps(box_4: Boxes, boxes_F4: Boxes) -> NDArray[np.float64]:
    """Return intersection over union of a box with each of others, [F]."""
    width = np.minimum(box_4[2], boxes_F4[:, 2]) - np.maximum(box_4[0], boxes_F4[:, 0])
    height = np.minimum(box_4[3], boxes_F4[:, 3]) - np.maximum(box_4[1], boxes_F4[:, 1])
    common = np.maximum(0.0, width) * np.maximum(0.0, height)
    areas = (boxes_F4[:, 2] - boxes_F4[:, 0]) * (boxes_F4[:, 3] - boxes_F4[:, 1])
    union = areas + (box_4[2] - box_4[0]) * (box_4[3] - box_4[1]) - common
    return np.asarray(common / np.maximum(union, 1e-12))


def strongest(boxes_P4: Boxes, max_overlap: float) -> NDArray[np.int64]:
    """Return the indices of boxes, given best first, that overlap no better kept one by more than `max_overlap`."""
    kept = []
    waiting = np.arange(len(boxes_P4))
    while waiting.size:
        first, waiting = waiting[0], waiting[1:]
        kept.append(first)
        waiting = waiting[overlaps(boxes_P4[first], boxes_P4[waiting]) <= max_overlap]
    return np.array(kept, dtype=np.int64)


def choose(scores_P: NDArray[np.float64], boxes_P4: Boxes, min_score: float) -> Boxes:
    """Return the faces among a frame's candidates, best first, [F, 4]."""
    sure = np.flatnonzero(scores_P > min_score)
    order = sure[np.argsort(-scores_P[sure], kind="stable")][:MAX_CANDIDATES]
    boxes_P4 = boxes_P4[order]
    boxes_P4 = boxes_P4[strongest(boxes_P4, CANDIDATE_OVERLAP)][:MAX_FACES]
    return boxes_P4[strongest(boxes_P4, FACE_OVERLAP)]


class FaceFinder:
    """S3FD with its weights.

    Args:
        context: Says which file and device.
        min_score: Least probability of a face.
        scale: Frames are reduced by this factor first.
        batch_size: Frames at once, at first.
    """

    def __init__(self, context: Context, min_score: float = 0.9, scale: float = 0.25, batch_size: int = 8) -> None:
        self._net = load_s3fd(context)
        self._min_score, self._scale = min_score, scale
        self.batch = Batch(batch_size)

    def find(self, frames_THWC: Frames) -> list[Boxes]:
        """Return the faces of each frame, best first, [F, 4] each."""
        import torch

        small_THWC = np.stack([quarter(frame_HWC, self._scale) for frame_HWC in frames_THWC])
        images_TCHW = torch.from_numpy(small_THWC.transpose(0, 3, 1, 2).copy())
        height, width = frames_THWC.shape[1:3]
        sides = np.array([width, height, width, height], dtype=np.float64)

        def candidates(some_TCHW: Tensor) -> Tensor:
            scores_TP, boxes_TP4 = self._net(some_TCHW)
            return torch.cat([boxes_TP4, scores_TP[..., None]], dim=-1).double().cpu()

        found_TP5 = self.batch.run(candidates, images_TCHW).numpy()
        if not np.isfinite(found_TP5).all():
            raise FloatingPointError("S3FD gives numbers that are not finite: are the weights whole?")
        return [choose(found_P5[:, 4], found_P5[:, :4] * sides, self._min_score) for found_P5 in found_TP5]


def load_s3fd(context: Context) -> S3FD:
    """Return S3FD with the weights at hand, on the context's device."""

    def build(path: Path) -> S3FD:
        from talkbench.nets.s3fd import S3FD
        from talkbench.weights import read

        net = S3FD()
        read.load_strict(net, read.state_dict(path), path)
        return net

    return networks.load(context, "s3fd", build)
