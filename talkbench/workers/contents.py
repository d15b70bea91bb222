"""What an environment holds, beside what its lock says: its own interpreter is asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkbench.config import inherited_environment
from talkbench.errors import PrerequisiteError
from talkbench.workers.envs import Recipe, normalised

LOOK = Path(__file__).with_name("look.py")
_LOOK_SECONDS = 600
_TOOLS = {"pip", "setuptools", "wheel"}
"""Packages that may be there without standing in the lock."""


@dataclass(frozen=True)
class Contents:
    """What an environment holds, and how that differs from its lock.

    Attributes:
        python: Version of its interpreter.
        gpus: Names of the GPUs that its torch sees.
        problems: What is not as it should be, one sentence each.
    """

    python: str
    gpus: tuple[str, ...]
    problems: tuple[str, ...]


def look(recipe: Recipe) -> Contents:
    """Start an environment's interpreter and compare what it holds with the lock.

    Raises:
        PrerequisiteError: If the interpreter does not start.
    """
    facts, ended = _facts(recipe)
    if "python" not in facts:
        raise PrerequisiteError(f"{recipe.interpreter} does not start: {ended}. Make it again: {recipe.create}")
    versions = {normalised(name): version for name, version in facts.get("packages", {}).items()}
    problems = [*_version_problems(recipe, facts["python"], versions)]
    imported = facts["imported"]
    problems += [f"import {name} fails: {error}" for name, error in imported.items() if error is not None]
    if len(imported) < len(recipe.imports):
        problems.append(f"import {recipe.imports[len(imported)]} ended the interpreter: {ended}")
    return Contents(facts["python"], tuple(facts.get("gpus", ())), tuple(problems))


def _facts(recipe: Recipe) -> tuple[dict[str, Any], str]:
    """Return what the interpreter tells, and how it ended."""
    command = [str(recipe.interpreter), str(LOOK), *recipe.imports]
    try:
        result = subprocess.run(  # noqa: S603 - an argument list, never a shell
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_LOOK_SECONDS,
            env=inherited_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode("utf-8", "replace") if isinstance(error.stdout, bytes) else ""
        return _gathered(printed), f"it was silent for {_LOOK_SECONDS} s"
    except OSError as error:
        return {"imported": {}}, str(error)
    words = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    return _gathered(result.stdout), f"exit code {result.returncode}, {words[0]}"


def _gathered(printed: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"imported": {}}
    for line in printed.splitlines():
        fact = json.loads(line)
        if "imported" in fact:
            facts["imported"][fact["imported"]] = fact["error"]
        else:
            facts |= fact
    return facts


def _version_problems(recipe: Recipe, python: str, versions: dict[str, str]) -> Iterator[str]:
    if not f"{python}.".startswith(f"{recipe.python}."):
        yield f"Python {recipe.python} is needed, it is {python}"
    pins = recipe.pins()
    for name, wanted in pins.items():
        found = versions.get(name)
        if found is None:
            yield f"{name} {wanted} is not installed"
        elif wanted not in (found, found.partition("+")[0]):
            yield f"{name} is {found}, the lock says {wanted}"
    compiled = {normalised(requirement.partition("==")[0]): requirement for requirement in recipe.compiled}
    for name in compiled.keys() - versions.keys():
        yield f"{compiled[name]} is not installed"
    if not recipe.first:
        allowed = pins.keys() | compiled.keys() | _TOOLS
        if extra := sorted(versions.keys() - allowed):
            yield f"{', '.join(extra[:5])}{' ...' if extra[5:] else ''}: installed, but not in the lock"
