"""Environments of the official packages, made from committed lock files under the user's cache folder."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.resources import files
from pathlib import Path

from talkbench import atomic
from talkbench.config import cache_folder
from talkbench.errors import PrerequisiteError
from talkbench.ids import sha256_file
from talkbench.progress import Progress

TORCH = "torch==2.13.0"
"""Installed first and with its dependencies, since which build it is depends on the machine."""


def oracles_folder() -> Path:
    """Return where the scripts and lock files of the official packages lie."""
    return Path(str(files("talkbench.calibrate"))) / "oracles"


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
    lock = oracles_folder() / f"{oracle}.lock"
    folder = cache_folder() / "envs" / f"calibrate-{oracle}"
    python, done = folder / "bin" / "python", folder / "installed"
    digest = sha256_file(lock)
    if done.is_file() and done.read_text(encoding="utf-8") == digest:
        return python
    progress.start(f"install {oracle}", 2)
    venv.create(folder, clear=True, with_pip=True)
    for arguments in ([TORCH], ["--no-deps", "-r", str(lock)]):
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if result.returncode:
            raise PrerequisiteError(
                f"cannot install the official package into {folder}: {_last(result.stderr)} "
                f"Name an environment that has it: --python PYTHON (packages: {lock})."
            )
        progress.step(arguments[-1])
    progress.finish()
    atomic.write_text(done, digest)
    return python


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
