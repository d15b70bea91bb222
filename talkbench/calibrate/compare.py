"""What the official code gives for clips and weight files, and how far ours is from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from talkbench.calibrate import environment
from talkbench.errors import TalkbenchError
from talkbench.ids import sha256_file
from talkbench.media import decode, probe
from talkbench.media.clip import Frames
from talkbench.metrics.base import declared_id
from talkbench.metrics.quality import QAlignParams, judged
from talkbench.metrics.sampling import UniformSample

Row = dict[str, Any]
Values = dict[str, dict[str, float]]
"""Output id -> clip name -> value."""


@dataclass(frozen=True)
class Difference:
    """One value beside the official one.

    Attributes:
        output: Output id.
        clip: File name.
        ours: Our value; None if we have none.
        official: The official package's; None if it has none.
        tolerance: Greatest difference that counts as agreement.
        reason: Why the two were not compared; None if they were.
    """

    output: str
    clip: str
    ours: float | None
    official: float | None
    tolerance: float
    reason: str | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus official."""
        return None if self.ours is None or self.official is None else self.ours - self.official

    @property
    def agrees(self) -> bool:
        """Whether both were compared and have a value within the tolerance, or neither has one."""
        if self.difference is None or self.reason is not None:
            return self.reason is None and self.ours is None and self.official is None
        return abs(self.difference) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"difference": self.difference, "agrees": self.agrees}


@dataclass(frozen=True)
class Oracle:
    """An official package.

    Attributes:
        name: As on the command line, and of its script and lock file.
        runners: Our runners it is compared with.
        tolerances: Output id -> greatest difference (same weights and pixels, float32 on a CPU).
        params: Runner -> parameters under which it computes the same.
        values: Asks it: interpreter, clips, weight folder, folder for its files -> values.
    """

    name: str
    runners: tuple[str, ...]
    tolerances: dict[str, float]
    params: dict[str, dict[str, Any]]
    values: Callable[[Path, Sequence[Path], Path, Path], Values]


def _vbench(python: Path, clips: Sequence[Path], weights: Path, work: Path) -> Values:
    arguments = ["--weights", str(weights), "--work", str(work)]
    present = [name for name, file in _VBENCH_FILES.items() if file is None or (weights / file).is_file()]
    for dimension in present:
        arguments += ["--dimension", dimension]
    for clip in clips:
        arguments += ["--clip", str(clip)]
    found = json.loads(environment.run(python, "vbench", arguments))["values"]
    return {f"vbench.{dimension}": values for dimension, values in found.items()}


_VBENCH_FILES = {
    "subject_consistency": "dino_vitbase16_pretrain.pth",
    "background_consistency": "ViT-B-32.pt",
    "motion_smoothness": "amt-s.pth",
    "temporal_flickering": None,
}


def _qalign(python: Path, clips: Sequence[Path], weights: Path, work: Path) -> Values:
    """Hand the frames that our runner samples to the official code, picture by picture."""
    folder = weights / "one-align"
    pictures: dict[str, list[Path]] = {}
    for clip in clips:
        for number, frame_HWC in enumerate(_sampled(clip)):
            path = work / f"{clip.stem}-{number:04d}.png"
            Image.fromarray(frame_HWC).save(path)
            pictures.setdefault(clip.name, []).append(path)
    output = work / "pyiqa.json"
    paths = [str(path) for own in pictures.values() for path in own]
    environment.run(python, "pyiqa", ["--weights", str(folder), "--output", str(output), *paths])
    found = json.loads(output.read_text(encoding="utf-8"))["pictures"]
    return {
        f"qalign.{task}": {
            name: math.fsum(_levels([found[path.name][task]["logits"] for path in own])) / len(own)
            for name, own in pictures.items()
        }
        for task in ("quality", "aesthetics")
    }


def _sampled(clip: Path) -> Iterable[Frames]:
    params = QAlignParams()
    sample: UniformSample[Frames] = UniformSample(params.frames_per_second, params.min_frames)
    facts = probe.probe(clip)
    with probe.open_clip(clip) as container:
        for batch in decode.VideoReader(container, clip, facts.video).batches():
            for frame_HWC, at in zip(batch.frames_THWC, batch.seconds_T.tolist(), strict=True):
                yield from (frame for _, frame in sample.offer(at, frame_HWC.copy))
    yield from (frame for _, frame in sample.rest())


def _levels(logits: list[list[float]]) -> list[float]:
    scores, _ = judged(np.array(logits, dtype=np.float32))
    return [float(score) for score in scores]


def _syncnet(python: Path, clips: Sequence[Path], weights: Path, work: Path) -> Values:
    """Run the package's whole pipeline; of several tracks the one with the highest confidence counts, as with ours."""
    output = work / "syncnet.json"
    arguments = ["--weights", str(weights), "--output", str(output)]
    for clip in clips:
        arguments += ["--clip", str(clip)]
    environment.run(python, "syncnet", arguments)
    found = json.loads(output.read_text(encoding="utf-8"))["clips"]
    values: Values = {f"sync.official.{name}": {} for name in ("confidence", "distance", "offset_frames")}
    for name, tracks in found.items():
        if tracks["confidence"]:
            best = int(np.argmax(tracks["confidence"]))
            for output_id, own in values.items():
                own[name] = float(tracks[output_id.rpartition(".")[2]][best])
    return values


ORACLES = {
    oracle.name: oracle
    for oracle in (
        Oracle(
            "vbench",
            ("flicker", "subject", "background", "smoothness"),
            {
                "vbench.temporal_flickering": 1e-6,
                "vbench.subject_consistency": 2e-5,
                "vbench.background_consistency": 2e-5,
                "vbench.motion_smoothness": 2e-5,
            },
            {},
            _vbench,
        ),
        Oracle(
            "syncnet",
            ("sync_official",),
            {"sync.official.confidence": 0.02, "sync.official.distance": 0.02, "sync.official.offset_frames": 0.0},
            {"sync_official": {"min_track_frames": 50, "original_sound": True}},
            _syncnet,
        ),
        Oracle("pyiqa", ("qalign",), {"qalign.quality": 1e-4, "qalign.aesthetics": 1e-4}, {}, _qalign),
    )
}


def compare(
    oracle: Oracle, rows: Iterable[Row], official: Values, clips: Sequence[Path], device: str
) -> list[Difference]:
    """Return every value of ours beside the official one, by output and clip.

    Args:
        oracle: Whose values.
        rows: Current rows of a run that has scored the clips; those of other files are passed over.
        official: What it gave; it is not asked for an output whose weight file is absent.
        clips: The files; rows are found by their bytes.
        device: Name of the device on which ours must have been computed.

    Raises:
        TalkbenchError: If two clips have the same file name.
    """
    names = [clip.name for clip in clips]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TalkbenchError(f"two clips are called {twice[0]}; give a folder in which names are unique.")
    ours = {
        (declared_id(row["output"]), row["clip_sha256"]): row
        for row in sorted(rows, key=lambda row: row["written_at"])
        if row["status"] == "ok"
    }
    digests = {clip: sha256_file(clip) for clip in clips}
    return [
        _beside(output, clip.name, ours.get((output, digests[clip])), official.get(output), tolerance, device)
        for output, tolerance in oracle.tolerances.items()
        for clip in clips
    ]


def _beside(
    output: str, clip: str, row: Row | None, official: dict[str, float] | None, tolerance: float, device: str
) -> Difference:
    reason = None
    if official is None:
        reason = f"no {_VBENCH_FILES[output.rpartition('.')[2]]} in the weight folder"
    elif row is not None and row["device"] != device:
        reason = f"ours was computed on {row['device']}; choose another run folder with --out"
    return Difference(output, clip, row["value"] if row else None, (official or {}).get(clip), tolerance, reason)
