"""Checkouts: at the pinned commit, unchanged, whole or not there."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from talkbench.errors import PrerequisiteError
from talkbench.workers import checkout
from talkbench.workers.checkout import Checkout

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="checkouts are made with git")

CREATE = "talkbench env create loom --source"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(repository: Path, text: str) -> str:
    (repository / "inference.py").write_text(text)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", text)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def code(tmp_path: Path) -> Checkout:
    """Official code of two commits, the first of which is wanted."""
    repository = tmp_path / "official"
    repository.mkdir()
    git(repository, "init", "--quiet")
    first = commit(repository, "one")
    commit(repository, "two")
    return Checkout(repository.as_uri(), first[:7], tmp_path / "weights" / "source", "inference.py", CREATE)


def test_the_code_is_cloned_at_the_pinned_commit(code: Checkout) -> None:
    assert f"lacks inference.py ({code.url} at {code.commit}): {CREATE}" in (checkout.lacking(code) or "")
    assert checkout.fetch(code) == code.folder
    assert (code.folder / "inference.py").read_text() == "one"
    assert git(code.folder, "rev-parse", "HEAD").startswith(code.commit)
    assert checkout.lacking(code) is None
    assert checkout.fetch(code) == code.folder
    assert sorted(path.name for path in code.folder.parent.iterdir()) == [".source.cloning", "source"]


def test_a_clone_at_another_commit_is_refused_and_brought_to_the_pinned_one(code: Checkout, tmp_path: Path) -> None:
    code.folder.parent.mkdir()
    checkout.fetch(code)
    newer = replace(code, commit=commit(tmp_path / "official", "three"))
    assert f"is at commit {git(code.folder, 'rev-parse', 'HEAD')[:12]}, not at {newer.commit}" in (
        checkout.lacking(newer) or ""
    )
    checkout.fetch(newer)
    assert (code.folder / "inference.py").read_text() == "three"


def test_changed_code_is_refused_and_not_lost(code: Checkout) -> None:
    code.folder.parent.mkdir()
    checkout.fetch(code)
    (code.folder / "blend.so").touch()
    assert checkout.lacking(code) is None, "what git does not know is no change"
    (code.folder / "inference.py").write_text("mine")
    assert "was changed (inference.py)" in (checkout.lacking(code) or "")
    with pytest.raises(PrerequisiteError, match="was changed"):
        checkout.fetch(code)
    assert (code.folder / "inference.py").read_text() == "mine"


def test_code_without_git_is_the_users_own(code: Checkout) -> None:
    code.folder.mkdir(parents=True)
    with pytest.raises(PrerequisiteError, match="not cloned by git"):
        checkout.fetch(code)
    (code.folder / "inference.py").touch()
    assert checkout.lacking(code) is None


@pytest.mark.parametrize("change", [{"commit": "0" * 40}, {"url": "file:///nowhere/at/all"}])
def test_what_cannot_be_cloned_says_why_and_leaves_nothing(code: Checkout, change: dict) -> None:
    code.folder.parent.mkdir()
    with pytest.raises(PrerequisiteError, match="failed: "):
        checkout.fetch(replace(code, **change))
    assert [path.name for path in code.folder.parent.iterdir()] == [".source.cloning"]


def test_a_commit_without_the_wanted_file_is_refused(code: Checkout) -> None:
    code.folder.parent.mkdir()
    with pytest.raises(PrerequisiteError, match=r"lacks demo\.py"):
        checkout.fetch(replace(code, entry="demo.py"))


def test_without_git_the_command_that_installs_it_is_said(code: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout.shutil, "which", lambda _: None)
    with pytest.raises(PrerequisiteError, match="apt-get install git"):
        checkout.fetch(code)
