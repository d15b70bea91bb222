"""The catalog, where weight files are looked for, and when they count as released."""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file

from talkbench import vetting
from talkbench.errors import TalkbenchError
from talkbench.ids import sha256_file
from talkbench.metrics.base import RUNNERS
from talkbench.weights import catalog, store
from talkbench.weights.catalog import Entry
from tests.support import ROOT

TOY: dict[str, Any] = {
    "name": "toy", "file": "w.pth", "urls": ["https://example.org/w.pth"], "about_megabytes": 0.001, "licence": "MIT",
    "needed_by": ["toy.x"], "source": "the README",
}  # fmt: skip
HUB = TOY | {
    "name": "hub", "file": "one-align", "aliases": ["q-future/one-align"], "urls": ["https://example.org/main"],
    "parts": ["config.json", "tokenizer.model"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKBENCH_CACHE", str(tmp_path / "cache"))


def given(monkeypatch: pytest.MonkeyPatch, *entries: dict[str, Any]) -> None:
    """Replace the catalog."""
    made = {entry["name"]: Entry.model_validate(entry) for entry in entries}
    monkeypatch.setattr(catalog, "catalog", lambda: made)


def weight_file(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.full((3,), value)}, folder / "w.pth")
    return folder / "w.pth"


def hub_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(b"words")
    for number in (1, 2):
        save_file({f"t{number}": torch.ones(number)}, folder / f"model-{number}.safetensors")
    weight_map = {f"t{number}": f"model-{number}.safetensors" for number in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def note(target: Path, files: list[Path], base: str) -> None:
    """Write what `fetch` would have noted."""
    noted = {f.name: {"url": base, "size_bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files}
    store.record_path(target).write_text(json.dumps({"files": noted}))


def test_the_catalog_is_complete_and_official() -> None:
    entries = catalog.catalog()
    assert {"dino", "clip", "amt", "syncnet", "s3fd", "qalign"} <= set(entries)
    for entry in entries.values():
        assert all(url.startswith("https://") for url in entry.urls)
        assert entry.is_folder or all(url.endswith(f"/{entry.file}") for url in entry.urls)
        assert entry.non_commercial <= ("commercial" in entry.licence_note)
    assert {name for name, entry in entries.items() if entry.non_commercial} == {"amt", "qalign"}


def test_every_output_that_needs_weights_is_in_the_catalog() -> None:
    for runner in map(RUNNERS.get, RUNNERS.names()):
        for name in runner.needs.weights:
            for output in runner.outputs:
                patterns = catalog.catalog()[name].needed_by
                assert any(fnmatchcase(output.id, pattern) for pattern in patterns), f"{output.id} needs {name}"


def test_commands_that_check_faces_are_in_the_catalog_too() -> None:
    assert any("generate" in user for user in catalog.catalog()["s3fd"].needed_by)
    for name in vetting.WEIGHTS:
        assert "talkbench data check" in catalog.catalog()[name].needed_by


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha265": "x"}, "Extra inputs are not permitted"),
        ({"sha256": "abc"}, "String should match pattern"),
        ({"urls": ["ftp://example.org/w"]}, "String should match pattern"),
        ({"urls": []}, "give either"),
        ({"packaged": True}, "give either"),
        ({"urls": [], "packaged": True}, "a packaged file needs its whole sha256"),
        ({"file": "../w.pth"}, "String should match pattern"),
        ({"needed_by": []}, "at least 1 item"),
    ],
)
def test_a_wrong_catalog_entry_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Entry.model_validate(TOY | change)


def test_names_are_split_made_unique_and_mistakes_answered() -> None:
    assert [entry.name for entry in catalog.entries(["clip,dino", "dino"])] == ["clip", "dino"]
    assert {entry.name for entry in catalog.entries(["all"])} >= {"dino", "qalign"}
    with pytest.raises(TalkbenchError, match="unknown weights 'dyno'. Did you mean 'dino'?"):
        catalog.entries(["dyno"])


def test_a_missing_file_is_a_sentence_with_the_next_command(tmp_path: Path) -> None:
    located = store.locate(["dino"], weights_dir=tmp_path, allow_unverified=False)
    assert located.files == {}
    assert located.missing["dino"] == (
        f"dino_vitbase16_pretrain.pth is not in {tmp_path} or {tmp_path / 'cache' / 'weights'}: get it with "
        "`talkbench weights fetch dino`, or name a folder that has it with --weights-dir."
    )


def test_nothing_asked_nothing_found(tmp_path: Path) -> None:
    assert store.locate([], weights_dir=None, allow_unverified=False) == store.Located({}, {})
    with pytest.raises(TalkbenchError, match="no such folder"):
        store.locate(["dino"], weights_dir=tmp_path / "gone", allow_unverified=False)


def test_the_named_folder_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TOY)
    cached = weight_file(tmp_path / "cache" / "weights", 1.0)
    named = weight_file(tmp_path / "named", 2.0)
    for folder, expected in ((None, cached), (named.parent, named)):
        located = store.locate(["toy"], weights_dir=folder, allow_unverified=True)
        assert located.files["toy"].path == expected
        assert located.files["toy"].sha256 == sha256_file(expected)


@pytest.mark.parametrize("short", [False, True])
def test_a_published_digest_makes_a_file_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    path = weight_file(tmp_path / "w")
    found = sha256_file(path)
    given(monkeypatch, TOY | {"sha256": f"{found[:8]}...{found[-4:]}" if short else found})
    assert store.locate(["toy"], weights_dir=path.parent, allow_unverified=False).files["toy"].kind == "released"


def test_another_digest_is_refused_unless_allowed_and_then_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weight_file(tmp_path / "w")
    given(monkeypatch, TOY | {"sha256": "0" * 64, "about_megabytes": 343})
    with pytest.raises(TalkbenchError) as caught:
        store.locate(["toy"], weights_dir=path.parent, allow_unverified=False)
    message = str(caught.value)
    assert f"{path} has sha256 {sha256_file(path)}, but the README states {'0' * 64}" in message
    assert "0.0 MB instead of about 343 MB" in message
    assert "talkbench weights fetch toy" in message
    assert "--allow-unverified" in message
    located = store.locate(["toy"], weights_dir=path.parent, allow_unverified=True)
    assert located.files["toy"].kind == "unverified"


def test_without_a_published_digest_only_our_own_fetch_vouches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TOY)
    path = weight_file(tmp_path / "w")
    toy = Entry.model_validate(TOY)
    with pytest.raises(TalkbenchError, match="no digest is published, and talkbench did not fetch it"):
        store.locate(["toy"], weights_dir=path.parent, allow_unverified=False)
    for address in ("http://example.org/w.pth", "https://elsewhere.org/w.pth"):
        note(path, [path], address)
        assert store.examine(toy, path).kind == "unverified"
    note(path, [path], "https://example.org/w.pth")
    assert store.examine(toy, path).kind == "released"
    weight_file(path.parent, 3.0)
    assert store.examine(toy, path).kind == "unverified", "altered after it was fetched"


def test_a_copy_of_what_the_cache_fetched_is_released_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TOY)
    cached = weight_file(tmp_path / "cache" / "weights")
    note(cached, [cached], "https://example.org/w.pth")
    copied = tmp_path / "copy" / "w.pth"
    copied.parent.mkdir()
    copied.write_bytes(cached.read_bytes())
    located = store.locate(["toy"], weights_dir=copied.parent, allow_unverified=False)
    assert (located.files["toy"].path, located.files["toy"].kind) == (copied, "released")


def test_a_record_that_cannot_be_read_vouches_for_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = weight_file(tmp_path / "w")
    store.record_path(path).write_text('{"files": {"w.pth": {}}}')
    assert store.examine(Entry.model_validate(TOY), path).kind == "unverified"
    assert "not readable and not used" in caplog.text


@pytest.mark.parametrize("name", ["one-align", "q-future/one-align"])
def test_a_checkpoint_folder_has_one_digest_over_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given(monkeypatch, HUB)
    folder = hub_folder(tmp_path / "w" / name)
    with pytest.raises(TalkbenchError, match="weights hub"):
        store.locate(["hub"], weights_dir=tmp_path / "w", allow_unverified=False)
    before = store.locate(["hub"], weights_dir=tmp_path / "w", allow_unverified=True).files["hub"]
    assert (before.path, before.kind) == (folder, "unverified")
    (folder / "README.md").write_text("not read, so not part of the digest")
    assert store.locate(["hub"], weights_dir=tmp_path / "w", allow_unverified=True).files["hub"] == before
    note(folder, [path for path in folder.iterdir() if path.suffix != ".md"], "https://example.org/main/x")
    assert store.locate(["hub"], weights_dir=tmp_path / "w", allow_unverified=False).files["hub"].kind == "released"
    save_file({"t2": torch.zeros(2)}, folder / "model-2.safetensors")
    after = store.locate(["hub"], weights_dir=tmp_path / "w", allow_unverified=True).files["hub"]
    assert (after.kind, after.sha256 == before.sha256) == ("unverified", False)


@pytest.mark.parametrize("lost", ["tokenizer.model", "model-2.safetensors"])
def test_an_incomplete_checkpoint_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    given(monkeypatch, HUB)
    (hub_folder(tmp_path / "one-align") / lost).unlink()
    located = store.locate(["hub"], weights_dir=tmp_path, allow_unverified=True)
    assert not located.files
    assert re.search(f"incomplete.*{lost}", located.damaged["hub"])


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"<html>", "web page"), (b"PK\x03\x04 and no more", "cut off")]
)
def test_a_broken_file_is_refused_by_name_even_if_unverified_files_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    given(monkeypatch, TOY)
    (tmp_path / "w.pth").write_bytes(content)
    located = store.locate(["toy"], weights_dir=tmp_path, allow_unverified=True)
    assert not located.files
    assert re.search(rf"w.pth is .*{said}|w.pth {said}", located.damaged["toy"])
    assert "talkbench weights fetch" in located.damaged["toy"]


def test_a_packaged_file_is_of_the_mini_domain_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weight_file(tmp_path / "package")
    monkeypatch.setattr(store, "_packaged", lambda: path.parent)
    packaged = {name: value for name, value in TOY.items() if name != "urls"} | {"packaged": True}
    given(monkeypatch, packaged | {"sha256": sha256_file(path)})
    located = store.locate(["toy"], weights_dir=None, allow_unverified=False)
    assert (located.files["toy"].path, located.files["toy"].kind) == (path, "mini-domain")
    given(monkeypatch, packaged | {"sha256": "0" * 64})
    with pytest.raises(TalkbenchError, match="Install talkbench again"):
        store.locate(["toy"], weights_dir=None, allow_unverified=False)
    path.unlink()
    assert (
        "installation is incomplete" in store.locate(["toy"], weights_dir=None, allow_unverified=False).missing["toy"]
    )


def test_packaged_files_of_the_catalog_are_there() -> None:
    packaged = [entry for entry in catalog.catalog().values() if entry.packaged]
    assert packaged
    for entry in packaged:
        path = store.find(entry, None)
        assert path is not None
        assert store.examine(entry, path).kind == "mini-domain"


def test_a_digest_is_computed_once_per_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weight_file(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(store, "sha256_file", lambda p: read.append(p) or sha256_file(p))
    first = store.sha256_of(path)
    assert store.sha256_of(path) == first
    assert len(read) == 1
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1))
    assert store.sha256_of(path) == first
    weight_file(tmp_path, 5.0)
    assert store.sha256_of(path) == sha256_file(path) != first
    assert len(read) == 3


def test_a_damaged_or_unwritable_memory_of_digests_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = weight_file(tmp_path)
    memory = tmp_path / "cache" / "weights" / "digests.json"
    memory.parent.mkdir(parents=True)
    memory.write_text("{")
    assert store.sha256_of(path) == sha256_file(path)
    assert "not readable and not used" in caplog.text
    assert set(json.loads(memory.read_text())) == {str(path)}
    memory.unlink()
    (tmp_path / "cache" / "weights" / "digests.lock").unlink()
    memory.parent.rmdir()
    memory.parent.touch()
    assert store.sha256_of(path) == sha256_file(path)
    assert "cannot remember" in caplog.text


def test_many_processes_remember_digests_without_losing_any(tmp_path: Path) -> None:
    paths = [weight_file(tmp_path / str(number), float(number)) for number in range(12)]
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        assert list(pool.map(store.sha256_of, paths)) == [sha256_file(path) for path in paths]
    memory = json.loads((tmp_path / "cache" / "weights" / "digests.json").read_text())
    assert set(memory) == {str(path) for path in paths}


def test_the_catalog_file_has_one_entry_per_name() -> None:
    """YAML keeps the last of two equal keys in silence."""
    text = (ROOT / "talkbench" / "weights" / "catalog.yaml").read_text()
    heads = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(heads) == len(yaml.safe_load(text))
