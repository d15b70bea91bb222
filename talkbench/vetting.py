"""`talkbench data check`: networks look once at every fetched clip, and what they measured is written down.

Faces by S3FD, lip sync by SyncNet on the clip itself where picture and sound belong together (which refuses dubbing and
narration from off the screen). The verdict is not made here: `talkbench.data.acceptance.by_networks` is a rule over the
written numbers, so that a selection can be repeated without networks, weights, or media.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from talkbench import atomic
from talkbench.data import acceptance, placing, reference
from talkbench.data.folder import Build
from talkbench.data.manifest import Checked, Measured, Selected, line
from talkbench.data.reference import Box
from talkbench.data.snapshot import frozen, load_attempts, load_checked, load_selection, media_digest, pieces
from talkbench.errors import PrerequisiteError, TalkbenchError, Unscorable
from talkbench.ids import sha256_file
from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import VideoReader
from talkbench.metrics.base import Context
from talkbench.metrics.faces import FaceFinder
from talkbench.metrics.score import Metric, score_clip
from talkbench.progress import Progress, Silent
from talkbench.schema import ClipRecord
from talkbench.weights import store
from talkbench.weights.catalog import WeightFile

WEIGHTS = ("s3fd", "syncnet")


@dataclass
class CheckReport:
    """What was measured.

    Attributes:
        measured: Clips looked at now.
        known: Clips looked at before, whose files are the same.
        waiting: Clips that are not fetched yet.
        verdicts: Reason -> clips that it speaks against; `accepted` for the others.
    """

    measured: int = 0
    known: int = 0
    waiting: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


def check(
    build: Build,
    *,
    weights_dir: Path | None = None,
    allow_unverified: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> CheckReport:
    """Measure every wanted clip whose files are here and have not been measured; goes on where an earlier run ended.

    Args:
        build: Where selection and media are.
        weights_dir: Folder with weight files under their official names; else the cache that `fetch` fills.
        allow_unverified: Accept weight files that no published digest vouches for.
        device: Where networks run: ``cpu``, ``cuda``, ``cuda:1``.
        progress: Told about every clip.

    Raises:
        PrerequisiteError: If a weight file is missing; says how to get it.
        TalkbenchError: If there is no selection, or another process is checking the same folder.
    """
    located = store.locate(WEIGHTS, weights_dir=weights_dir, allow_unverified=allow_unverified)
    lacking = [*located.missing.values(), *located.damaged.values()]
    if lacking:
        raise PrerequisiteError("\n".join(lacking))
    with atomic.lock(build.checked.with_suffix(".lock"), wait=False) as free:
        if not free:
            raise TalkbenchError(f"another process is checking {build.root}; run this again after it.")
        return _check(build, _Networks(located.files, device), progress or Silent())


def _check(build: Build, networks: _Networks, progress: Progress) -> CheckReport:
    report = CheckReport()
    known = load_checked(build)
    wanted = _wanted(build)
    log = atomic.AppendFile(build.checked)
    progress.start("check", len(wanted))
    try:
        for entry in wanted:
            files = pieces(build, entry)
            if not all(path.is_file() for path in files):
                report.waiting += 1
                progress.step(entry.clip_id, ok=False)
                continue
            media = media_digest([sha256_file(path) for path in files])
            if media in known:
                report.known += 1
            else:
                record = Checked(media=media, clip_id=entry.clip_id, measured=networks.measure(entry, files))
                log.append([line(record)])
                known[media] = record
                report.measured += 1
            report.verdicts[acceptance.by_networks(known[media].measured) or "accepted"] += 1
            progress.step(entry.clip_id)
    finally:
        log.close()
    progress.finish()
    return report


def _wanted(build: Build) -> list[Selected]:
    """Return the clips that fill the slots as far as is known: after the freeze those of the snapshot."""
    selection = load_selection(build)
    states = frozen(build, selection) if build.snapshot.is_file() else load_attempts(build, selection)
    placed = placing.place(selection, {key: state.status == "available" for key, state in states.items()})
    return [each.entry for each in placed if each.entry is not None]


class _Networks:
    """Face detector and lip sync with their weights."""

    def __init__(self, files: Mapping[str, WeightFile], device: str) -> None:
        self._context = Context(device=device, weights=files)
        self._sync = Metric("sync", None, files)
        self._faces = FaceFinder(self._context)
        self._weights = {name: file.sha256 for name, file in sorted(files.items())}

    def measure(self, entry: Selected, files: Sequence[Path]) -> Measured:
        """Return what is seen in the reference frame and, where the window is filmed, in the window."""
        *windows, reference_file = files
        frame_HWC = reference.choose(reference_file).frame_HWC
        boxes = self._boxes(frame_HWC)
        only = boxes[0] if len(boxes) == 1 else None
        confidence, problem, window_box = None, None, None
        if entry.filmed:
            confidence, problem = self._agreement(windows[0])
            seen = self._boxes(_first_frame(windows[0]))
            window_box = seen[0] if len(seen) == 1 else None
        return Measured(
            num_faces=len(boxes),
            face_box=only,
            face_share=round((only[2] - only[0]) * (only[3] - only[1]), 5) if only else None,
            window_face_box=window_box,
            sync_confidence=confidence,
            sync_problem=problem,
            weights=self._weights,
        )

    def _boxes(self, frame_HWC: Frames) -> list[Box]:
        """Return the faces of a frame, best first, in parts of the frame."""
        rows, columns = frame_HWC.shape[:2]
        (found_F4,) = self._faces.find(frame_HWC[None])
        parts_F4 = np.clip(found_F4 / np.array([columns, rows, columns, rows]), 0.0, 1.0)
        return [(left, top, right, bottom) for left, top, right, bottom in np.round(parts_F4, 5).tolist()]

    def _agreement(self, path: Path) -> tuple[float | None, str | None]:
        """Return Sync-C of a clip, or why there is none.

        Raises:
            TalkbenchError: If the metric itself failed, which says nothing about the clip.
        """
        try:
            record = _record(path)
        except Unscorable as error:
            return None, error.reason
        rows = score_clip(record, (self._sync,), None, self._context).rows
        # Weights that nothing vouches for mark the output's name.
        row = next(row for row in rows if row.output.partition("@")[0] == "sync.confidence")
        if row.reason in {"exception", "out-of-memory", "not-finite", "bad-weights"}:
            raise TalkbenchError(f"{path}: lip sync could not be measured: {row.message}")
        return (None, row.reason) if row.value is None else (round(row.value, 4), None)


def _record(path: Path) -> ClipRecord:
    facts = probe.probe(path)
    state = path.stat()
    return ClipRecord(
        clip_key=path.stem,
        system="source",
        item=path.stem,
        tier="source",
        identity=path.stem,
        path=str(path),
        size_bytes=state.st_size,
        modified_ns=state.st_mtime_ns,
        sha256=sha256_file(path),
        video=facts.video,
        audio=facts.audio,
    )


def _first_frame(path: Path) -> Frames:
    with probe.open_clip(path) as container:
        first: Frames = next(VideoReader(container, path, probe.probe(path).video).batches(1)).frames_THWC[0]
        return first
