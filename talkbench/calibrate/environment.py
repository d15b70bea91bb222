"""Environments of the official packages, made from committed lock files under the user's cache folder."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from talkbench.config import cache_folder
from talkbench.errors import PrerequisiteError
from talkbench.progress import Progress
from talkbench.workers import envs
from talkbench.workers.envs import Recipe

TORCH = "torch==2.13.0"
"""Installed first and with its dependencies, since which build it is depends on the machine."""


def oracles_folder() -> Path:
    """Return where the scripts and lock files of the official packages lie."""
    return Path(str(files("talkbench.calibrate"))) / "oracles"


def recipe(oracle: str) -> Recipe:
    """Return how the environment of an official package is made."""
    return Recipe(
        name=f"calibrate-{oracle}",
        folder=cache_folder() / "envs" / f"calibrate-{oracle}",
        python="3.11",
        lock=oracles_folder() / f"{oracle}.lock",
        about_gigabytes=6,
        first=(TORCH,),
        imports=("torch",),
    )


def interpreter(oracle: str, given: Path | None, progress: Progress) -> Path:
    """Return the Python in which an official package can be run, installing it first if need be.

    Args:
        oracle: Name of the script and lock file: ``vbench``.
        given: An interpreter of the user's, taken as it is.
        progress: Told about the installation, which takes a minute or two.

    Raises:
        PrerequisiteError: If the given interpreter does not exist, or the installation fails.
    """
    if given is not None:
        if not given.is_file():
            raise PrerequisiteError(f"--python {given}: no such file.")
        return given
    wanted = recipe(oracle)
    if envs.lacking(wanted) is None:
        return wanted.interpreter
    try:
        return envs.create(wanted, progress)
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"{error}\nOr name an environment that has the package: --python PYTHON (packages: {wanted.lock})."
        ) from error


def run(python: Path, oracle: str, arguments: list[str]) -> str:
    """Run an oracle's script and return what it printed.

    Raises:
        PrerequisiteError: If it fails, with its last words.
    """
    command = [str(python), str(oracles_folder() / f"{oracle}.py"), *arguments]
    environment = {"PATH": str(python.parent) + ":/usr/local/bin:/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if result.returncode:
        raise PrerequisiteError(
            f"the official package ({oracle}, {python}) stopped with exit code {result.returncode}: "
            f"{_last(result.stderr)}"
        )
    return result.stdout


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"no message ({Path(sys.executable).name})"
