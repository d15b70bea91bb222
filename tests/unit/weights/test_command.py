"""`talkbench weights`: what it prints and the codes it leaves with."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from talkbench.cli.weights import app
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.weights import catalog
from talkbench.weights.catalog import Entry
from tests.unit.weights.server import serving
from tests.unit.weights.test_store import TOY


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("TALKBENCH_CACHE", str(tmp_path / "cache"))
    return lambda *arguments, **given: CliRunner().invoke(app, [str(part) for part in arguments], **given)


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    return buffer.getvalue()


def test_list_shows_every_entry_and_where_it_lies(command: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "amt-s.pth").write_bytes(b"x")
    listed = {row["name"]: row for row in json.loads(command("list", "--json", "--weights-dir", tmp_path).stdout)}
    assert set(listed) == set(catalog.catalog())
    assert listed["amt"]["path"] == str(tmp_path / "amt-s.pth")
    assert listed["amt"]["non_commercial"] is True
    assert listed["dino"]["path"] is None
    assert "non-commercial" in command("list").stdout


def test_terms_are_shown_before_fetching_and_consent_is_asked_for(command: Callable[..., Result]) -> None:
    done = command("fetch", "amt")
    assert isinstance(done.exception, TalkbenchError)
    assert "--accept-licence" in str(done.exception)
    assert "NON-COMMERCIAL USE ONLY" in done.stderr


def test_offline_lists_what_is_missing_and_leaves_with_four(command: Callable[..., Result], tmp_path: Path) -> None:
    done = command("fetch", "dino", "clip", "--offline")
    assert isinstance(done.exception, PrerequisiteError)
    assert done.exception.exit_code == 4
    (tmp_path / "ViT-B-32.pt").touch()
    done = command("fetch", "clip", "--offline", "--weights-dir", tmp_path, "--json")
    assert json.loads(done.stdout) == {"clip": str(tmp_path / "ViT-B-32.pt")}


def test_fetch_and_verify_a_file(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved()
    with serving({"/w.pth": content}) as served:
        digest = hashlib.sha256(content).hexdigest()
        toy = Entry.model_validate(TOY | {"urls": [f"{served.url}/w.pth"], "sha256": digest})
        monkeypatch.setattr(catalog, "catalog", lambda: {"toy": toy})
        path = tmp_path / "cache" / "weights" / "w.pth"
        assert (done := command("verify", "toy")).exit_code == 4
        assert "toy: missing. w.pth is not in" in done.stderr
        assert "no weight files here" in command("verify").stderr
        assert json.loads(command("fetch", "toy", "--json").stdout) == {"toy": str(path)}
    row = {"name": "toy", "path": str(path), "sha256": digest, "state": "released"}
    assert json.loads(command("verify", "--json").stdout)[0].items() >= row.items()
    path.write_bytes(saved()[:-30])
    assert (done := command("verify")).exit_code == 3
    assert "toy: damaged." in done.stderr
    torch.save({"a": torch.zeros(2)}, path)
    assert (done := command("verify")).exit_code == 3
    assert "toy: unverified." in done.stderr
