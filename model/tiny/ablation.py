"""A grid of trainings, the clips of each, and their scores: Tables 2 and 3 at tiny scale.

    OUT/ablation.json               what was asked for, the rows of each table, what became of every cell
    OUT/cells/k3-seed0/             a training run with its log.txt, and training.json once it is done
    OUT/clips/k3/short-01-seed0.mp4
    OUT/measures.jsonl              what only the truth can tell of a clip, a line per value
    OUT/suite.jsonl, run.json, ...  what was filmed, and the run of `talkbench score`

Every cell is a child process: one that dies costs a row of its own, and the same command tries it again. What is done
stays. Two tables may share a folder; a variant that both have is trained once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.provenance import device_name

from .. import PACKAGE
from ..data.dataset import Dataset
from ..train import EXPORT
from ..training.checkpoints import described
from ..training.config import TrainRecipe
from ..training.recipes import changed, train_recipe
from ..training.starting import Job, position
from ..training.variants import TABLES, Variant, options
from .cast import Cast
from .children import Children
from .results import exported, gathered, training_facts
from .trial import CLIPS, FILM, MEASURES, READER_FACTS

RECORD, TRAINING, SUITE, CELLS, LOG = "ablation.json", "training.json", "suite.jsonl", "cells", "log.txt"
SCORED = "flicker,motion,sync_frame,av"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is tried, the same for all tables of a folder.

    Attributes:
        data: Encoded clips.
        init: Stage-1 run or weights that every variant starts from.
        seeds: Trainings of each variant, by the seeds 0, 1, ...
        steps: Of each training; the recipe's if None.
        cast: Who is filmed.
        weights_dir: Autoencoder and encoders, if not those that come with the package.
    """

    data: Path
    init: Path
    seeds: int = 3
    steps: int | None = None
    cast: Cast = field(default_factory=Cast)
    weights_dir: Path | None = None

    def described(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return found

    def recipe(self, variant: Variant, seed: int) -> TrainRecipe:
        """Return a variant's training."""
        steps = {} if self.steps is None else {"stage.steps": str(self.steps)}
        return changed(train_recipe("distill_tiny"), {**variant.fields, **steps, "seed": str(seed)})


@dataclass(frozen=True)
class Reference:
    """A system that is not trained here, to compare with.

    Attributes:
        name: Of the system.
        label: As the table prints it.
        num_steps: Of the sampler.
        short_only: Whether long scenes would take too long.
    """

    name: str
    label: str
    num_steps: int = 4
    short_only: bool = False


REFERENCES = (
    Reference("stage1", "stage 1, 4 steps"),
    Reference("stage1-40", "stage 1, 40 steps", num_steps=40, short_only=True),
    Reference(FILM, "true film"),
)


class Ablation:
    """One table of an ablation.

    Args:
        out: Its folder.
        table: ``table2`` or ``table3``.
        asked: What is tried.
        jobs: Cells at once.
        tell: Told of progress.

    Raises:
        TalkbenchError: If the folder holds another ablation, or there is no generator to start from.
    """

    def __init__(self, out: Path, table: str, asked: Asked, *, jobs: int, tell: Tell) -> None:
        self.out, self.table, self.asked, self.jobs, self.tell = out, table, asked, jobs, tell
        self.teacher = exported(asked.init)
        self.children = Children(tell)
        known = json.loads((out / RECORD).read_text(encoding="utf-8")) if (out / RECORD).is_file() else None
        if known is not None and known["asked"] != asked.described():
            differing = [name for name, value in asked.described().items() if known["asked"].get(name) != value]
            raise TalkbenchError(
                f"{out} holds an ablation with other {', '.join(differing)}. Ask for the same, or choose another --out."
            )
        self._record: dict[str, Any] = known or {
            "scale": "tiny", "asked": asked.described(), "tables": {}, "cells": {},
            "references": [{"system": each.name, "label": each.label} for each in REFERENCES],
        }  # fmt: skip
        self._record["tables"][table] = [{"system": each.name, "label": each.label} for each in TABLES[table]]

    def run(self) -> dict[str, str]:
        """Train, film and score; return why cells failed, by name.

        Raises:
            TalkbenchError: If another process is at work on the folder, or scoring fails.
        """
        with atomic.lock(self.out / ".ablation.lock", wait=False) as held:
            if not held:
                raise TalkbenchError(f"another `talkbench ablate` is at work in {self.out}. Wait for it, or stop it.")
            self._write()
            seeds = range(self.asked.seeds)
            items = [scene.item.to_json() for seed in seeds for scene in self.asked.cast.scenes(seed)]
            atomic.write_text(self.out / SUITE, "".join(f"{item}\n" for item in items))
            # The film comes first: it draws the people and trains the mouth reader for all.
            film, others = REFERENCES[-1], REFERENCES[:-1]
            cells: dict[str, Callable[[], None]] = {}
            for seed in seeds:
                cells[_name(film.name, seed)] = partial(self._refer, film, seed)
            for seed in seeds:
                cells |= {_name(each.name, seed): partial(self._try, each, seed) for each in TABLES[self.table]}
            for seed in seeds:
                cells |= {_name(each.name, seed): partial(self._refer, each, seed) for each in others}
            failed = self._all(cells)
            self._score()
        return failed

    def _all(self, cells: Mapping[str, Callable[[], None]]) -> dict[str, str]:
        """Run cells, several at once, and note each as it ends; return why some failed."""
        failed = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            names = {pool.submit(work): name for name, work in cells.items()}
            try:
                for number, future in enumerate(as_completed(names), 1):
                    name, why = names[future], None
                    try:
                        future.result()
                    except TalkbenchError as error:
                        why = failed[name] = str(error)
                    self._note(name, why)
                    self.tell(f"{name} {'done' if why is None else f'failed: {why}'} ({number} of {len(cells)})")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.children.stop()
                raise
        return failed

    def _try(self, variant: Variant, seed: int) -> None:
        """Train a variant and film it.

        Raises:
            TalkbenchError: If either fails.
        """
        folder = self.cell(variant.name, seed)
        recipe = self.asked.recipe(variant, seed)
        if not self._is_trained(folder, recipe):
            begun_with = self._begun_with(recipe)
            self.children.run(self.training_command(variant, seed), folder / LOG)
            facts = training_facts(folder, recipe) | {"cells_at_once": self.jobs, "device": device_name("cpu")}
            facts["begun_with"] = begun_with
            atomic.write_text(folder / TRAINING, json.dumps(facts, indent=1) + "\n")
        self.children.run(self._trial(variant.name, seed, folder / EXPORT), folder / LOG)

    def _refer(self, reference: Reference, seed: int) -> None:
        """Film a reference.

        Raises:
            TalkbenchError: If that fails.
        """
        more = ["--num-steps", str(reference.num_steps), *(["--short-only"] if reference.short_only else [])]
        command = self._trial(reference.name, seed, self.teacher)
        self.children.run([*command, *more], self.cell(reference.name, seed) / LOG)

    def cell(self, system: str, seed: int) -> Path:
        """Return the folder of a cell."""
        return self.out / CELLS / _name(system, seed)

    def training_command(self, variant: Variant, seed: int) -> list[str]:
        """Return what trains a cell."""
        asked = self.asked
        command = [sys.executable, "-m", f"{PACKAGE}.train", "--recipe", "distill_tiny"]
        command += ["--data", str(asked.data), "--init", str(asked.init), "--seed", str(seed)]
        command += ["--weights-dir", str(asked.weights_dir)] if asked.weights_dir is not None else []
        command += ["--steps", str(asked.steps)] if asked.steps is not None else []
        return [*command, *options(variant), "--out", str(self.cell(variant.name, seed))]

    def _trial(self, system: str, seed: int, weights_dir: Path) -> list[str]:
        command = [sys.executable, "-m", f"{__package__}.trial", "--out", str(self.out), "--system", system]
        cast = json.dumps(asdict(self.asked.cast))
        return [*command, "--seed", str(seed), "--weights-dir", str(weights_dir), "--cast", cast]

    def _is_trained(self, folder: Path, recipe: TrainRecipe) -> bool:
        """Tell whether a cell's generator is there.

        Raises:
            TalkbenchError: If it is of another recipe, other clips or another stage 1; these may have changed since.
        """
        if not (folder / TRAINING).is_file() or not (folder / EXPORT).is_dir():
            return False
        facts = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        wanted = {**described(recipe), "steps": recipe.stage.steps}
        made = {**facts["recipe"], "steps": facts["steps"]}
        if differing := sorted(name for name in {**wanted, **made} if wanted.get(name) != made.get(name)):
            told = "; ".join(f"{name} is {made.get(name)} there and {wanted.get(name)} here" for name in differing)
            raise TalkbenchError(f"{folder} was trained by another recipe: {told}. Remove it, or choose another --out.")
        ours = self._begun_with(recipe)
        theirs = facts.get("begun_with", ours)  # older trainings do not say it
        if differing := sorted(name for name in ours if theirs.get(name) != ours[name]):
            told = " and ".join(f"--{name}" for name in differing)
            raise TalkbenchError(
                f"{folder} was trained with another {told}, or that has changed since. Remove it, or choose another "
                "--out."
            )
        return True

    def _begun_with(self, recipe: TrainRecipe) -> dict[str, Any]:
        """Return digests of the clips and of stage 1."""
        asked = self.asked
        job = Job(recipe, asked.data, self.out, init=asked.init, weights_dir=asked.weights_dir)
        return position(job, Dataset(asked.data))

    def _note(self, name: str, failed: str | None) -> None:
        training = self.out / CELLS / name / TRAINING
        facts = json.loads(training.read_text(encoding="utf-8")) if training.is_file() else None
        kept = None if facts is None else {key: facts[key] for key in ("seconds", "passes", "steps", "cells_at_once")}
        system, _, seed = name.rpartition("-seed")
        self._record["cells"][name] = {"system": system, "seed": int(seed), "failed": failed, "training": kept}
        self._write()

    def _write(self) -> None:
        if (facts := self.out / READER_FACTS).is_file():
            self._record["reader"] = json.loads(facts.read_text(encoding="utf-8"))
        atomic.write_text(self.out / RECORD, json.dumps(self._record, indent=1) + "\n")
        atomic.write_text(
            self.out / f"{MEASURES}.jsonl", "".join(f"{json.dumps(each)}\n" for each in gathered(self.out))
        )

    def _score(self) -> None:
        """Score all clips of the folder.

        Raises:
            TalkbenchError: If that fails; names the command.
        """
        folders = sorted(path for path in (self.out / CLIPS).glob("*") if any(path.glob("*.mp4")))
        if not folders:
            return
        command = [sys.executable, "-m", "talkbench", "score", *(f"{path.name}={path}" for path in folders)]
        command += ["--suite", str(self.out / SUITE), "--out", str(self.out), "--metric", SCORED]
        command += ["--jobs", str(self.jobs)]
        self.tell(f"scoring {len(folders)} systems")
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603 - our own program
        if code not in {0, 3}:  # 3: some clips have no score, which their rows say
            raise TalkbenchError(f"scoring ended with {code}. See why: `{' '.join(command)}`.")


def _name(system: str, seed: int) -> str:
    return f"{system}-seed{seed}"
