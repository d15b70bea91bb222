"""The named environments: those of the systems that adapters describe, and of the official packages we calibrate with.

talkbench env list | create NAME | check NAME
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from talkbench.calibrate import environment as oracles
from talkbench.calibrate.compare import ORACLES
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.progress import Progress, Silent
from talkbench.provenance import gpus
from talkbench.registry import suggest
from talkbench.systems.discover import adapters
from talkbench.systems.machine import Machine
from talkbench.workers import checkout, contents, envs
from talkbench.workers.checkout import Checkout
from talkbench.workers.envs import Recipe

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """An environment and what runs in it.

    Attributes:
        recipe: How it is made.
        code: The checkout of official code beside it; None if it needs none.
        users: Systems, or the package that it is the oracle of.
    """

    recipe: Recipe
    code: Checkout | None
    users: tuple[str, ...]


def named(weights_dir: str | PathLike[str] | None = None) -> dict[str, Named]:
    """Return every environment by name: those of the systems first.

    Args:
        weights_dir: Folder of weight files, below which the environments of systems lie; by default in the cache.
    """
    weights = Machine.this(weights_dir=Path(weights_dir) if weights_dir else None).weights
    found: dict[str, Named] = {}
    for spec in adapters().values():
        recipe = spec.recipe(weights)
        if recipe is not None:
            before = found.get(recipe.name)
            users = (*before.users, spec.name) if before else (spec.name,)
            found[recipe.name] = Named(recipe, spec.checkout(weights), users)
    for oracle in ORACLES:
        recipe = oracles.recipe(oracle)
        found[recipe.name] = Named(recipe, None, (f"talkbench calibrate {oracle}",))
    return {name: each for name, each in found.items() if _is_readable(each.recipe)}


def _is_readable(recipe: Recipe) -> bool:
    """Warn of a lock that cannot be read: a broken plug-in costs its own environment only."""
    try:
        recipe.pins()
    except TalkbenchError as error:
        _log.warning("environment %s is not available: %s", recipe.name, error)
        return False
    return True


def select(name: str, weights_dir: str | PathLike[str] | None = None) -> Named:
    """Return the environment of a name.

    Raises:
        TalkbenchError: If there is none, with the nearest name, or that of the environment which a system shares.
    """
    every = named(weights_dir)
    if name in every:
        return every[name]
    shared = next((known for known, each in every.items() if name in each.users), None)
    hint = f" {name} runs in {shared}." if shared else suggest(name, every)
    raise TalkbenchError(f"unknown environment {name!r}.{hint} Known: {', '.join(every)} (`talkbench env list`).")


def listing(weights_dir: str | PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Return every environment as plain data: for whom, where, in which state, and what it lacks."""
    return [
        {
            "name": each.recipe.name,
            "for": list(each.users),
            "python": each.recipe.python,
            "packages": len(each.recipe.pins()),
            "about_gigabytes": each.recipe.about_gigabytes,
            "folder": str(each.recipe.folder),
            "state": envs.state(each.recipe),
            "lacks": list(_lacks(each)),
        }
        for each in named(weights_dir).values()
    ]


def commands(name: str, *, weights_dir: str | PathLike[str] | None = None) -> list[str]:
    """Return the shell commands that make an environment and the checkout beside it.

    Raises:
        TalkbenchError: If the name is unknown.
    """
    each = select(name, weights_dir)
    lines = [["uv", *arguments] for arguments in each.recipe.commands()]
    return [shlex.join(line) for line in [*lines, *(each.code.commands() if each.code else ())]]


def create(
    name: str,
    *,
    source: bool = False,
    weights_dir: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make an environment, unless it is there; return its interpreter.

    Args:
        name: As `talkbench env list` shows it.
        source: Clone the official code, too, at its pinned commit.
        weights_dir: As in `named`.
        progress: Told about every step.

    Raises:
        TalkbenchError: If the name is unknown.
        PrerequisiteError: If something is missing for it, or a step fails; what was downloaded stays in uv's cache.
    """
    each = select(name, weights_dir)
    if source and each.code is not None:
        checkout.fetch(each.code)
    return envs.create(each.recipe, progress or Silent())


def check(name: str, *, weights_dir: str | PathLike[str] | None = None) -> dict[str, Any]:
    """Start the interpreter of an environment and compare what it holds with the lock.

    Returns:
        ``python``, ``gpus`` (names of those that its torch sees), and ``problems``, one sentence each.

    Raises:
        TalkbenchError: If the name is unknown.
        PrerequisiteError: If it is not there, or its interpreter does not start.
    """
    each = select(name, weights_dir)
    if why := envs.lacking(each.recipe):
        raise PrerequisiteError(f"{name}: {why}")
    found = contents.look(each.recipe)
    problems = [*found.problems, *_lacks(each)]
    installed = gpus()
    if installed and "torch" in each.recipe.imports and not found.gpus:
        problems.append(f"its torch sees none of the {len(installed)} GPU(s) here: is the driver too old for its CUDA?")
    return {"name": name, "python": found.python, "gpus": list(found.gpus), "problems": problems}


def _lacks(each: Named) -> Iterator[str]:
    told = (envs.lacking(each.recipe), each.code and checkout.lacking(each.code))
    yield from (sentence for sentence in told if sentence)
