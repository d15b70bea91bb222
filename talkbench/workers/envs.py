"""Named environments of systems and oracles: made by uv from committed locks, and compared with them.

    <folder>/bin/python      its interpreter
    <folder>.json            the receipt: from which lock, and whether the making came to its end

An environment is made in place, since scripts in it name their interpreter by its absolute path. The receipt is
written before the first step, as unfinished, and after the last one; a making that was killed is done again. One
without a receipt is the user's own: it is used as it is, and never touched.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.ids import digest
from talkbench.progress import Progress
from talkbench.workers import uv

State = Literal["absent", "unfinished", "outdated", "ready", "own"]
"""`outdated` was made from another lock; `own` was made by the user."""

_GIGABYTE = 1e9
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*])?==([^\s;\\]+)")


@dataclass(frozen=True)
class Recipe:
    """How an environment is made.

    Attributes:
        name: As on the command line.
        folder: Where it lies.
        python: Version of the interpreter: ``3.10``.
        lock: Exact versions of its packages, one ``NAME==VERSION`` per line.
        about_gigabytes: Space that it takes.
        first: Packages installed before the lock, with all that they need, since which build fits depends on the
            machine. The lock is then installed without looking at what its packages ask for.
        compiled: Packages built here, against those of the lock.
        imports: Modules that must be importable.
        options: What the command that makes it says besides the name, after a space.
    """

    name: str
    folder: Path
    python: str
    lock: Path
    about_gigabytes: float
    first: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    options: str = ""

    @property
    def interpreter(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    @property
    def create(self) -> str:
        """The command that makes it."""
        return f"talkbench env create {self.name}{self.options}"

    def pins(self) -> dict[str, str]:
        """Return the packages of the lock: normalised name -> version.

        Raises:
            TalkbenchError: If the lock cannot be read, or a line of it pins no version.
        """
        try:
            lines = self.lock.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TalkbenchError(f"environment {self.name}: cannot read {self.lock}: {error}") from error
        found = {}
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text or text.startswith("--hash="):
                continue
            pin = _PIN.match(text)
            if pin is None:
                raise TalkbenchError(f"{self.lock}, line {number}: expected NAME==VERSION, found {text!r:.80}.")
            found[normalised(pin[1])] = pin[2]
        return found

    @property
    def digest(self) -> str:
        """Changes whenever the environment would become another one; comments in the lock do not matter."""
        return digest([self.python, self.first, sorted(self.pins().items()), self.compiled])

    def commands(self) -> list[list[str]]:
        """Return the uv commands that make it, without `uv`."""
        into = ["pip", "install", "--python", str(self.interpreter)]
        first = [[*into, *self.first]] if self.first else []
        alone = ["--no-deps"] if self.first else []
        compiled = [[*into, "--no-deps", "--no-build-isolation", *self.compiled]] if self.compiled else []
        return [
            ["venv", "--no-project", "--python", self.python, "--clear", str(self.folder)],
            *first,
            [*into, *alone, "--requirements", str(self.lock)],
            *compiled,
        ]


class Receipt(BaseModel):
    """What lies beside an environment that we made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    finished: bool


def state(recipe: Recipe) -> State:
    """Return how far an environment is.

    Raises:
        TalkbenchError: If its lock cannot be read.
    """
    receipt = _receipt(recipe)
    if receipt is None:
        return "own" if recipe.interpreter.exists() else "absent"
    if not receipt.finished:
        return "unfinished"
    if not recipe.interpreter.exists():
        return "absent"
    return "ready" if receipt.digest == recipe.digest else "outdated"


def lacking(recipe: Recipe) -> str | None:
    """Return why an environment cannot be used, with the command that helps; None if it can."""
    why = {
        "absent": "is not there",
        "unfinished": "was not made to its end",
        "outdated": f"was made from another lock than {recipe.lock.name}",
    }.get(state(recipe))
    if why is None:
        return None
    return f"its environment {recipe.folder} {why} (about {recipe.about_gigabytes:g} GB): {recipe.create}"


def create(recipe: Recipe, progress: Progress) -> Path:
    """Make an environment, unless it is there; return its interpreter.

    Args:
        recipe: What it consists of.
        progress: Told about every step; uv's own lines are log messages.

    Raises:
        PrerequisiteError: If uv, disk space or network is missing, a step fails, somebody else is making it at this
            moment, or one that the user made lies there.
    """
    now = state(recipe)
    if now == "ready":
        return recipe.interpreter
    if now == "own":
        raise PrerequisiteError(
            f"{recipe.folder} was not made by talkbench and is not touched. It is used as it is; to have it made from "
            f"{recipe.lock}, move it away, then: {recipe.create}"
        )
    uv.program()
    recipe.folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.lock(recipe.folder.with_name(f".{recipe.folder.name}.making"), wait=False) as obtained:
        if not obtained:
            raise PrerequisiteError(f"{recipe.folder} is being made by another process: wait for it.")
        if state(recipe) != "ready":
            _require_space(recipe)
            _make(recipe, progress)
    return recipe.interpreter


def _make(recipe: Recipe, progress: Progress) -> None:
    commands = recipe.commands()
    _write(recipe, finished=False)
    progress.start(f"environment {recipe.name}", len(commands))
    try:
        for arguments in commands:
            try:
                uv.run(arguments, python=recipe.python)
            except PrerequisiteError as error:
                raise PrerequisiteError(f"environment {recipe.name}: {error} Then: {recipe.create}") from error
            progress.step(" ".join(arguments[:2]))
    finally:
        progress.finish()
    _write(recipe, finished=True)


def normalised(name: str) -> str:
    """Return the one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _receipt_path(recipe: Recipe) -> Path:
    return recipe.folder.with_name(f"{recipe.folder.name}.json")


def _receipt(recipe: Recipe) -> Receipt | None:
    path = _receipt_path(recipe)
    try:
        return Receipt.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise TalkbenchError(f"cannot read {path}: {why}. Remove it, then: {recipe.create}") from error


def _write(recipe: Recipe, *, finished: bool) -> None:
    receipt = Receipt(digest=recipe.digest, finished=finished)
    atomic.write_text(_receipt_path(recipe), receipt.model_dump_json() + "\n")


def _require_space(recipe: Recipe) -> None:
    free = shutil.disk_usage(recipe.folder.parent).free / _GIGABYTE
    if free < recipe.about_gigabytes:
        raise PrerequisiteError(
            f"environment {recipe.name} takes about {recipe.about_gigabytes:g} GB, {free:.1f} GB are free in "
            f"{recipe.folder.parent}. Free some, or name another folder with --weights-dir, then: {recipe.create}"
        )
