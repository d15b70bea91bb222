"""Checkouts of official code: cloned at a pinned commit, and refused if they are at another one or were changed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from talkbench import atomic
from talkbench.errors import PrerequisiteError
from talkbench.workers import orphans


@dataclass(frozen=True)
class Checkout:
    """Where code lies and what it must be.

    Attributes:
        url: What it is cloned from.
        commit: 7 to 40 hex digits.
        folder: Where it lies.
        entry: A file of it, relative, without which it is of no use.
        create: Command that clones it.
    """

    url: str
    commit: str
    folder: Path
    entry: str
    create: str

    def commands(self) -> list[list[str]]:
        """Return the git commands that make it."""
        return [
            ["git", "clone", self.url, str(self.folder)],
            ["git", "-C", str(self.folder), "checkout", "--detach", self.commit],
        ]


def lacking(checkout: Checkout) -> str | None:
    """Return why a checkout cannot be used, with the command that helps; None if it can.

    Code that was put there without git is the user's own and taken as it is. Files that git does not know (compiled
    kernels, caches) are no change.
    """
    if not (checkout.folder / checkout.entry).is_file():
        return f"{checkout.folder} lacks {checkout.entry} ({checkout.url} at {checkout.commit}): {checkout.create}"
    if not (checkout.folder / ".git").exists():
        return None
    try:
        head = _git(checkout.folder, "rev-parse", "HEAD").strip()
        changed = _changed(checkout.folder)
    except PrerequisiteError as error:
        return str(error)
    if changed:
        return _told(checkout, changed)
    if not head.startswith(checkout.commit):
        return f"{checkout.folder} is at commit {head[:12]}, not at {checkout.commit}: {checkout.create}"
    return None


def fetch(checkout: Checkout) -> Path:
    """Clone the code, or bring a clean clone of it to the pinned commit; return its folder.

    A clone is made beside its place and renamed once it is whole.

    Raises:
        PrerequisiteError: If git fails, tracked files were changed, or code without git lies there.
    """
    folder = checkout.folder
    if (folder / ".git").exists():
        if changed := _changed(folder):
            raise PrerequisiteError(_told(checkout, changed))
        if not _git(folder, "rev-parse", "HEAD").startswith(checkout.commit):
            _git(folder, "fetch", "--quiet", "origin")
            _git(folder, "checkout", "--quiet", "--detach", checkout.commit)
    elif folder.exists():
        raise PrerequisiteError(f"{folder} was not cloned by git and is not touched: move it away first.")
    else:
        _clone(checkout)
    if why := lacking(checkout):
        raise PrerequisiteError(why)
    return folder


def _clone(checkout: Checkout) -> None:
    place = checkout.folder
    partial = place.with_name(f".{place.name}.partial")
    with atomic.lock(place.with_name(f".{place.name}.cloning"), wait=True):
        if place.exists():
            return
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _git(place.parent, "clone", "--quiet", "--no-checkout", checkout.url, str(partial))
            _git(partial, "checkout", "--quiet", "--detach", checkout.commit)
            partial.replace(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _changed(folder: Path) -> list[str]:
    listed = _git(folder, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [line[3:] for line in listed]


def _told(checkout: Checkout, changed: list[str]) -> str:
    more = " ..." if changed[3:] else ""
    return (
        f"{checkout.folder} was changed ({', '.join(changed[:3])}{more}): its clips would not be those of "
        f"{checkout.commit}. Keep the changes elsewhere, then: git -C {checkout.folder} checkout --force "
        f"--detach {checkout.commit}"
    )


def _git(folder: Path, *arguments: str) -> str:
    """Run git, which dies with us; return what it prints."""
    if shutil.which("git") is None:
        raise PrerequisiteError("git is not installed: apt-get install git")
    command = ["git", "-C", str(folder), *arguments]
    result = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, errors="replace", check=False, env=orphans.environment()
    )
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise PrerequisiteError(f"`{' '.join(command)}` failed: {said[-1]}")
    return result.stdout
