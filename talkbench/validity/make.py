"""Write the degraded clips of a validity run, skipping what is there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from talkbench import atomic
from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import sha256_file
from talkbench.progress import Progress
from talkbench.validity.degradations import AS_IS, BY_NAME, Degradation, write


@dataclass(frozen=True)
class Task:
    """One clip to write.

    Attributes:
        degradation: Its name, or `as_is`.
        level: Of the degradation.
        clip: What to spoil.
        other: Another clip.
        path: Where to.
    """

    degradation: str
    level: float
    clip: Path
    other: Path
    path: Path


def plan(clips: Sequence[Path], degradations: Sequence[Degradation], folder: Path) -> list[Task]:
    """Return the clips that do not exist yet, under `<folder>/<degradation>@<level>/<clip>.mp4`.

    Raises:
        TalkbenchError: If there are fewer than two clips (some degradations need another one), or two of one name.
    """
    if len(clips) < 2:
        raise TalkbenchError(f"a validity run needs at least two clips, and {len(clips)} was given.")
    if twice := sorted(stem for stem, count in Counter(clip.stem for clip in clips).items() if count > 1):
        raise TalkbenchError(f"two clips are called {twice[0]}.mp4; give a folder in which names are unique.")
    tasks = []
    for number, clip in enumerate(clips):
        other = clips[(number + 1) % len(clips)]
        variants = [(AS_IS, 0.0, AS_IS)]
        variants += [(each.name, level, each.system(level)) for each in degradations for level in each.levels]
        tasks += [
            Task(name, level, clip, other, folder / system / f"{clip.stem}.mp4") for name, level, system in variants
        ]
    return [task for task in tasks if not task.path.is_file()]


def claim(clips: Sequence[Path], folder: Path) -> None:
    """Write down which clips a folder's are made from, in `<folder>/sources.json`; the same ones may come again.

    Raises:
        TalkbenchError: If the folder is made from other clips.
    """
    listed = folder / "sources.json"
    sources = {clip.stem: {"path": str(clip.resolve()), "sha256": sha256_file(clip)} for clip in clips}
    if not listed.is_file() and not any(folder.glob("*/*.mp4")):
        atomic.write_text(listed, json.dumps(sources, indent=1) + "\n")
        return
    before = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    digests, digests_before = ({stem: s["sha256"] for stem, s in found.items()} for found in (sources, before))
    if changed := sorted(stem for stem, _ in digests.items() ^ digests_before.items()):
        raise TalkbenchError(
            f"{folder} is made from other clips than those given ({changed[0]}.mp4 differs). Choose another run folder "
            f"(`--out {folder.parent}-2`), or remove {folder.parent}."
        )


def make(tasks: list[Task], *, num_workers: int, progress: Progress) -> None:
    """Write the clips; each appears whole or not at all.

    Raises:
        TalkbenchError: If a clip cannot be read.
    """
    progress.start("degrade", len(tasks))
    with ProcessPoolExecutor(max(1, min(num_workers, len(tasks))), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_write, task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                task = waiting[future]
                failure = future.result()
                if failure is not None:
                    raise TalkbenchError(f"{task.clip}: {failure} Remove the clip, or repair it.")
                progress.step(f"{task.path.parent.name}/{task.path.stem}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress.finish()


def _write(task: Task) -> str | None:
    try:
        write(BY_NAME.get(task.degradation), task.level, task.clip, task.other, task.path)
    except Unscorable as error:
        return f"{error.message}."
    return None
