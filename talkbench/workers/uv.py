"""uv, which makes environments: it solves, downloads, caches and links packages, and fetches interpreters itself."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from talkbench.errors import PrerequisiteError
from talkbench.workers import orphans

_log = logging.getLogger(__name__)

INSTALL = "pip install uv"
_KEPT_LINES = 1000
_MAX_CHARACTERS = 1000
_REMEDIES = (
    (r"No space left on device|os error 28\b", "Free some space on that disk and in uv's cache (`uv cache clean`)."),
    (
        r"No interpreter found|No download found|python-build-standalone",
        "uv found no Python {python} and could not fetch one: install it and put it on PATH, or set "
        "UV_PYTHON_INSTALL_MIRROR.",
    ),
    (
        r"dns error|error sending request|[Cc]onnection refused|timed out|Failed to fetch|network",
        "Is there a network? uv also takes a copy of the package index: UV_DEFAULT_INDEX=URL.",
    ),
    (
        r"No solution found|not find a version|unsatisfiable",
        "The packages named contradict each other or do not exist: solve the lock again (its first lines say how).",
    ),
    (
        r"Failed to build|build backend",
        "A package is compiled here: its compiler, headers or CUDA toolkit (`nvcc`) are missing or do not fit.",
    ),
)
"""What uv prints, and what helps then."""


def program() -> list[str]:
    """Return how uv is called: the one on `PATH`, or the one beside this interpreter.

    Raises:
        PrerequisiteError: If there is none.
    """
    found = shutil.which("uv")
    if found:
        return [found]
    if find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    raise PrerequisiteError(f"environments are made with uv, which is not installed: {INSTALL}")


def run(arguments: Sequence[str], *, python: str) -> None:
    """Run a uv command, passing on what it tells of its work as log lines; it dies with us.

    Args:
        arguments: The command without `uv`.
        python: Version of Python that it is about, for messages.

    Raises:
        PrerequisiteError: If there is no uv, or it fails: what uv said of why, and what helps.
    """
    command = [*program(), *arguments]
    with subprocess.Popen(  # noqa: S603 - an argument list, never a shell
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=orphans.environment(),
    ) as process:  # fmt: skip
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line.rstrip())
            _log.info("  %s", line.rstrip())
            if len(lines) > 3 * _KEPT_LINES:  # a compiler may say much; why it was called and how it ended matter
                del lines[_KEPT_LINES:-_KEPT_LINES]
    if process.returncode:
        said = explanation(lines)
        raise PrerequisiteError(f"`uv {' '.join(arguments)}` failed: {said}{_remedy(said, python)}")


def explanation(lines: Sequence[str]) -> str:
    """Return uv's own account of a failure in one line: it may span several, drawn as a tree."""
    first = next((number for number, line in enumerate(lines) if re.match(r"\s*(error\b|×)", line)), None)
    told = lines[-1:] if first is None else lines[first:]
    told = [line for line in told if not line.lstrip().startswith("hint: Build failures")]
    text = " ".join(re.sub(r"[×│╰├─▶]+", " ", " ".join(told)).split())
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[: _MAX_CHARACTERS // 2]} ... {text[-_MAX_CHARACTERS // 2 :]}"
    return text or "it said nothing."


def _remedy(said: str, python: str) -> str:
    return next((f" {what.format(python=python)}" for seen, what in _REMEDIES if re.search(seen, said)), "")
