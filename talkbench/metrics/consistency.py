"""Subject and background consistency as VBench defines them: how much alike frames look to DINO and to CLIP.

Each frame becomes a feature of unit length. Frame i >= 1 gives the term (a + b) / 2 with a, b = max(0, cosine) to the
frame before it and to the first frame; the score is the mean of the terms, all frames at the file's own rate. A frozen
clip scores 1.0, and a higher frame rate raises the half that compares neighbours.

Source: Vchitect/VBench 45e79ec: vbench/subject_consistency.py and vbench/background_consistency.py. The official code
holds the whole clip; one earlier feature and the first one are enough. Its CLIP runs in fp16 on a GPU, which moves
scores by 2e-4; ours runs in fp32 (or bf16) everywhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from talkbench.errors import Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks, vbench
from talkbench.metrics.base import Needs, Runner, Scores
from talkbench.metrics.regroup import Regroup
from talkbench.metrics.series import Terms
from talkbench.nets.batches import Batch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from talkbench.nets.resize import Preprocess

Feature = NDArray[np.float64]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cosine(first_D: Feature, second_D: Feature) -> float:
    """Return the cosine of two unit vectors, 0 if they point apart."""
    return min(1.0, max(0.0, float(first_D @ second_D)))


def _filled(make: Callable[[], nn.Module], state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Return the network that `make` makes, every value of it from the file and none made before."""
    import torch

    from talkbench.weights import read

    with torch.device("meta"):
        net = make()
    net.to_empty(device="cpu")
    read.load_strict(net, state, path)
    return net


class ConsistencyRunner(Runner):
    """Compares features of frames; which features, its subclasses say."""

    version = "2"
    params_type = vbench.VBenchParams
    batch_frames: ClassVar[Mapping[str, int]]
    """Frames per batch of the network by type of device, by measured throughput."""

    @abstractmethod
    def _build(self, path: Path) -> nn.Module:
        """Return the network of a weight file."""

    @abstractmethod
    def _preprocess(self) -> Preprocess:
        """Return what happens to frames before the network."""

    def start(self, clip: ClipFacts) -> None:
        """Load the network if this process has not, and forget the previous clip."""
        self._features = getattr(self, "_features", None) or self._network()
        self._batch = Batch(self._whole_batch)
        self._frame_seconds = 1 / float(clip.frame_rate)
        self._regroup = Regroup(self._whole_batch)
        self._terms = Terms()
        self._pieces = vbench.Pieces(self.params.piece_seconds)
        self._num_frames = 0
        self._last_seconds = 0.0
        self._first = self._previous = self._piece_first = np.empty(0)
        self._piece = -1

    @property
    def _whole_batch(self) -> int:
        return self.batch_frames["cuda" if self.context.device.startswith("cuda") else "cpu"]

    def _network(self) -> Callable[[Tensor], Tensor]:
        """Return what turns uint8 frames into unit features on the CPU."""
        from torch.nn import functional

        (weight,) = self.needs.weights
        device, preprocess = self.context.device, self._preprocess()
        net = networks.load(
            self.context,
            weight,
            lambda path: vbench.prepared(self._build(path), self.params),
            variant="compiled" if self.params.compile else "",
        )

        def features(frames_THWC: Tensor) -> Tensor:
            with vbench.casting(self.params, device):
                return functional.normalize(net(preprocess(frames_THWC.to(device))).double(), dim=-1).cpu()

        return features

    def update(self, batch: FrameBatch) -> None:
        """Compare each frame with the one before it and the first."""
        for frames_THWC, seconds_T in self._regroup.push(batch):
            self._compare(frames_THWC, seconds_T)

    def finish(self) -> Scores:
        """Return the mean over frames 1 to the last, and over pieces of two seconds."""
        for frames_THWC, seconds_T in self._regroup.flush():
            self._compare(frames_THWC, seconds_T)
        if not len(self._terms):
            raise Unscorable("one-frame", f"consistency compares frames, and the clip has {self._num_frames}")
        found = vbench.scores(self.outputs, self._terms, self._pieces, self._last_seconds + self._frame_seconds)
        found.details.update(self._batch.halved())
        return found

    def _compare(self, frames_THWC: Frames, seconds_T: NDArray[np.float64]) -> None:
        import torch

        features_TD = self._batch.run(self._features, torch.from_numpy(frames_THWC)).numpy()
        if not np.isfinite(features_TD).all():
            raise FloatingPointError(f"the {self.needs.weights[0]} network gave a feature that is not finite")
        for feature_D, at in zip(features_TD, seconds_T.tolist(), strict=True):
            if self._num_frames == 0:
                self._first = feature_D
            else:
                self._terms.add([self._term(self._first, feature_D)], [at])
            piece = self._pieces.index(at)
            if piece != self._piece:
                self._piece, self._piece_first = piece, feature_D
            else:
                self._pieces.add(piece, self._term(self._piece_first, feature_D))
            self._previous, self._last_seconds = feature_D, at
            self._num_frames += 1

    def _term(self, first_D: Feature, feature_D: Feature) -> float:
        return (cosine(self._previous, feature_D) + cosine(first_D, feature_D)) / 2


class SubjectRunner(ConsistencyRunner):
    """`vbench.subject_consistency` in [0, 1]: DINO ViT-B/16 on the whole picture, short side at 224."""

    name = "subject"
    outputs = vbench.outputs(
        "subject_consistency", "Subject-C", "Likeness of frames to DINO (VBench subject consistency)"
    )
    needs = Needs(weights=("dino",))
    batch_frames: ClassVar[Mapping[str, int]] = {"cpu": 8, "cuda": 32}

    def _build(self, path: Path) -> nn.Module:
        from talkbench.nets.dino import DinoViT
        from talkbench.weights import read

        return _filled(DinoViT, read.state_dict(path), path)

    def _preprocess(self) -> Preprocess:
        from talkbench.nets.resize import Preprocess

        return Preprocess("bilinear", crop=False, mean=IMAGENET_MEAN, std=IMAGENET_STD)


class BackgroundRunner(ConsistencyRunner):
    """`vbench.background_consistency` in [0, 1]: CLIP ViT-B/32 on the centre square, without the sides."""

    name = "background"
    outputs = vbench.outputs(
        "background_consistency", "BG-C", "Likeness of frames to CLIP (VBench background consistency)"
    )
    needs = Needs(weights=("clip",))
    batch_frames: ClassVar[Mapping[str, int]] = {"cpu": 16, "cuda": 64}

    def _build(self, path: Path) -> nn.Module:
        from talkbench.nets import clip
        from talkbench.weights import read

        return _filled(clip.ClipVision, clip.half_rounded(read.state_dict(path)), path)

    def _preprocess(self) -> Preprocess:
        from talkbench.nets.clip import CLIP_MEAN, CLIP_STD
        from talkbench.nets.resize import Preprocess

        return Preprocess("bicubic", crop=True, mean=CLIP_MEAN, std=CLIP_STD)
