"""Checks of the metrics themselves: do they respond as they must, and do they give the official packages' numbers?"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talkbench import atomic
from talkbench.api import PathLike, generate, score
from talkbench.calibrate import compare as calibration
from talkbench.calibrate import environment
from talkbench.calibrate.compare import Difference
from talkbench.errors import TalkbenchError
from talkbench.metrics import base
from talkbench.mini.suite import mini_suite
from talkbench.progress import Progress, Silent
from talkbench.provenance import device_name
from talkbench.registry import suggest
from talkbench.store.run import Run
from talkbench.validity import battery
from talkbench.validity import make as degraded
from talkbench.validity.battery import Verdict


def validity(
    metrics: Sequence[str],
    out: PathLike,
    *,
    clips: PathLike | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    weights_dir: PathLike | None = None,
    allow_unverified: bool = False,
    device: str = "cpu",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Degrade clips in known ways, score them, and judge how each output responds; resumes like any run.

    Args:
        metrics: Runner or group names.
        out: Run folder: the degraded clips, their rows, and `validity.json`.
        clips: Folder of at least two clips; the short items of talkbench-mini by default.
        params: As in `score`.
        weights_dir: As in `score`.
        allow_unverified: As in `score`; scores of unverified weights are shown and not judged.
        device: As in `score`.
        jobs: As in `score`.
        progress: Told about every clip.

    Raises:
        TalkbenchError: If a name is unknown, there are fewer than two clips, two of one name, or the run folder is
            that of other clips.
    """
    folder = Path(out)
    outputs = [output.id for runner in base.select(list(metrics)) for output in runner.outputs]
    degradations = battery.needed(outputs)
    if not degradations:
        raise TalkbenchError(f"no known degradation says anything about {', '.join(metrics)}.")
    suite = None
    if clips is None:
        suite = mini_suite(num_long=0)
        source = generate(suite, ["recorded"], folder / "source", jobs=jobs, progress=progress)
        clips = source.run / "clips" / "recorded"
    found = sorted(Path(clips).rglob("*.mp4"))
    tasks = degraded.plan(found, degradations, folder / "clips")
    degraded.claim(found, folder / "clips")
    if tasks:
        degraded.make(tasks, num_workers=jobs or os.cpu_count() or 1, progress=progress or Silent())
    score(
        sorted(path for path in (folder / "clips").iterdir() if path.is_dir()),
        folder,
        suite=suite,
        metrics=metrics,
        params=params,
        weights_dir=weights_dir,
        allow_unverified=allow_unverified,
        device=device,
        jobs=jobs,
        progress=progress,
    )
    verdicts = battery.judge(Run(folder).current_rows())
    _store(verdicts, folder / "validity.json")
    return verdicts


def calibrate(
    oracle: str,
    clips: PathLike,
    weights_dir: PathLike,
    out: PathLike,
    *,
    python: PathLike | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Difference]:
    """Score clips with our code and with an official package on the same weights, and return the differences.

    Args:
        oracle: ``vbench``, ``syncnet`` or ``pyiqa``.
        clips: Folder of .mp4 files.
        weights_dir: Folder with the official weight files; any weights will do, since both sides use the same.
        out: Run folder: our rows, and `calibrate-<oracle>.json`.
        python: Interpreter of an environment that has the package; installed from the committed lock by default.
        jobs: As in `score`.
        progress: Told about every clip.

    Raises:
        TalkbenchError: If the name is unknown, or the folder holds no clip.
        PrerequisiteError: If the official package cannot be installed or fails.
    """
    if oracle not in calibration.ORACLES:
        known = list(calibration.ORACLES)
        raise TalkbenchError(f"unknown package {oracle!r}.{suggest(oracle, known)} Known: {', '.join(known)}.")
    chosen = calibration.ORACLES[oracle]
    found = sorted(Path(clips).resolve().glob("*.mp4"))
    if not found:
        raise TalkbenchError(f"{clips} holds no .mp4 file; the official packages read nothing else.")
    report = progress or Silent()
    score(
        clips,
        out,
        metrics=chosen.runners,
        params=chosen.params,
        weights_dir=weights_dir,
        allow_unverified=True,
        jobs=jobs,
        progress=report,
    )
    interpreter = environment.interpreter(oracle, Path(python) if python else None, report)
    report.start(f"official {oracle}", 1)
    with tempfile.TemporaryDirectory() as work:
        official = chosen.values(interpreter, found, Path(weights_dir).resolve(), Path(work))
    report.finish()
    differences = calibration.compare(chosen, Run(Path(out)).current_rows(), official, found, device_name())
    _store(differences, Path(out) / f"calibrate-{oracle}.json")
    return differences


def _store(found: Sequence[Verdict] | Sequence[Difference], path: Path) -> None:
    text = json.dumps([each.as_dict() for each in found], indent=1, allow_nan=False)
    atomic.write_text(path, text + "\n")
