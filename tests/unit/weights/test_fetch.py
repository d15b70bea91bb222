"""Fetching goes on after every kind of interruption, and nothing wrong ever gets the name of a weight file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.weights import download, fetch, store
from talkbench.weights.catalog import Entry
from talkbench.weights.download import NotThere
from talkbench.weights.read import BadWeights
from tests.support import ROOT
from tests.unit.weights.server import Served, serving

CONTENT = np.random.default_rng(0).bytes(5_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving({"/w.pth": CONTENT}) as server:
        yield server


def entry(served: Served, **changes: Any) -> Entry:
    base = {"name": "toy", "file": "w.pth", "urls": [f"{served.url}/w.pth"], "about_megabytes": 5, "sha256": SHA256,
            "licence": "MIT", "needed_by": ["toy.x"], "source": "the README"}  # fmt: skip
    return Entry.model_validate(base | changes)


def get(toy: Entry, folder: Path, naps: list[float] | None = None, **given: Any) -> Path:
    given = {"accept_licence": False, **given}
    return fetch.fetch(toy, folder, sleep=(naps if naps is not None else []).append, **given)


class Steps:
    """Counts steps of progress."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.steps = self.finished = 0

    def start(self, stage: str, total: int) -> None:
        self.totals.append(total)

    def step(self, label: str, *, ok: bool = True) -> None:
        assert label == "w.pth"
        self.steps += ok

    def finish(self) -> None:
        self.finished += 1


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_arrives_whole_with_a_record_of_where_it_came_from(served: Served, tmp_path: Path) -> None:
    steps = Steps()
    path = get(entry(served), tmp_path / "new", progress=steps)
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path / "new") == {"w.pth", "w.pth.fetched.json"}
    noted = store.read_record(path).files["w.pth"]
    assert (noted.url, noted.size_bytes, noted.sha256) == (f"{served.url}/w.pth", len(CONTENT), SHA256)
    assert (steps.totals, steps.steps, steps.finished) == ([5], 5, 1)


def test_fetching_again_asks_for_nothing(served: Served, tmp_path: Path) -> None:
    get(entry(served), tmp_path)
    get(entry(served), tmp_path)
    assert len(served.requests) == 1


def test_a_cut_connection_is_resumed_where_it_ended(served: Served, tmp_path: Path) -> None:
    served.cuts = [1_500_000, 700_000]
    naps: list[float] = []
    steps = Steps()
    assert get(entry(served), tmp_path, naps, progress=steps).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in served.requests] == [None, "bytes=1500000-", "bytes=2200000-"]
    assert naps == [1.0, 1.0], "every try brought something"
    assert (steps.totals, steps.steps) == ([5], 5)


def test_busy_servers_are_tried_again_with_longer_and_longer_pauses(served: Served, tmp_path: Path) -> None:
    served.errors = [503, 429, 500]
    naps: list[float] = []
    assert get(entry(served), tmp_path, naps).read_bytes() == CONTENT
    assert naps == [2.0, 4.0, 8.0]


def test_a_server_that_never_answers_is_given_up_and_the_part_is_kept(served: Served, tmp_path: Path) -> None:
    served.cuts = [1_000_000]
    served.errors = []
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        served.errors = [503]

    with pytest.raises(PrerequisiteError, match="503.*5 tries in a row.*1000000 bytes are kept") as caught:
        fetch.fetch(entry(served), tmp_path, accept_licence=False, sleep=nap)
    assert caught.value.exit_code == 4
    assert (tmp_path / "w.pth.part").stat().st_size == 1_000_000
    served.errors = []
    assert get(entry(served), tmp_path).read_bytes() == CONTENT
    assert served.requests[-1][1] == "bytes=1000000-"


def test_a_machine_that_is_not_there_is_said(tmp_path: Path) -> None:
    with serving({}) as gone:
        toy = entry(gone)
    with pytest.raises(PrerequisiteError, match="cannot fetch http://127.0.0.1.*[Rr]efused"):
        get(toy, tmp_path)


def test_a_server_without_ranges_starts_over(served: Served, tmp_path: Path) -> None:
    served.cuts, served.ranges = [2_000_000], False
    steps = Steps()
    assert get(entry(served), tmp_path, progress=steps).read_bytes() == CONTENT
    assert (steps.totals, steps.steps) == ([5], 5), "megabytes fetched twice count once"


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(served: Served, tmp_path: Path) -> None:
    served.cuts, served.ranges = [1_000_000] * 50, False
    with pytest.raises(PrerequisiteError, match="the connection ended at 1000000 of 5000000 bytes"):
        get(entry(served), tmp_path)
    assert len(served.requests) == 1 + download.MAX_FRUITLESS_TRIES


@pytest.mark.parametrize("tag", ['"one"', ""], ids=["with a tag", "without"])
def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_part(
    served: Served, tmp_path: Path, tag: str
) -> None:
    served.tag, served.cuts = tag, [1_000_000]

    def change(_: float) -> None:
        served.files["/w.pth"] = CONTENT[::-1] + b"longer"
        served.tag = tag and '"two"'

    path = fetch.fetch(entry(served, sha256=None), tmp_path, accept_licence=False, sleep=change)
    assert path.read_bytes() == CONTENT[::-1] + b"longer"


def test_a_part_of_another_address_or_unknown_origin_is_dropped(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "w.pth.part").write_bytes(b"x" * 1000)
    assert get(entry(served), tmp_path).read_bytes() == CONTENT
    assert "where it came from is not noted" in caplog.text
    (tmp_path / "w.pth").unlink()
    (tmp_path / "w.pth.part").write_bytes(b"x" * 1000)
    origin = {"url": "https://elsewhere/w.pth", "validator": served.tag, "num_bytes": None}
    (tmp_path / "w.pth.part.json").write_text(json.dumps(origin))
    assert get(entry(served), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("known_size", [len(CONTENT), None])
def test_a_part_that_is_already_whole_is_taken_as_it_is(served: Served, tmp_path: Path, known_size: int | None) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    origin = {"url": f"{served.url}/w.pth", "validator": served.tag, "num_bytes": known_size}
    (tmp_path / "w.pth.part.json").write_text(json.dumps(origin))
    assert get(entry(served), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in served.requests] == ([] if known_size else ["bytes=5000000-"])


def test_a_part_longer_than_the_file_is_dropped(served: Served, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"x")
    origin = {"url": f"{served.url}/w.pth", "validator": served.tag, "num_bytes": None}
    (tmp_path / "w.pth.part.json").write_text(json.dumps(origin))
    assert get(entry(served), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("published", ["0" * 64, f"{SHA256[:8]}...0000", f"00000000...{SHA256[-4:]}"])
def test_a_wrong_digest_is_refused_and_nothing_stays(served: Served, tmp_path: Path, published: str) -> None:
    with pytest.raises(BadWeights, match=f"{SHA256}, but the README states {published}"):
        get(entry(served, sha256=published), tmp_path)
    assert leftovers(tmp_path) == set()


def test_a_digest_quoted_in_short_is_enough_and_the_whole_one_is_recorded(served: Served, tmp_path: Path) -> None:
    path = get(entry(served, sha256=f"{SHA256[:8]}...{SHA256[-4:]}"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert store.read_record(path).files["w.pth"].sha256 == SHA256


def test_an_absent_file_is_said_at_once_and_the_next_address_tried(served: Served, tmp_path: Path) -> None:
    naps: list[float] = []
    with pytest.raises(NotThere, match=r"/gone.pth is not there \(404 Not Found\)"):
        get(entry(served, urls=[f"{served.url}/gone.pth"]), tmp_path, naps)
    assert (naps, leftovers(tmp_path)) == ([], set())
    assert get(entry(served, urls=[f"{served.url}/gone.pth", f"{served.url}/w.pth"]), tmp_path).exists()


def test_a_refusal_is_said(served: Served, tmp_path: Path) -> None:
    served.errors = [403]
    with pytest.raises(TalkbenchError, match="refused by the server .403 Forbidden"):
        get(entry(served), tmp_path)


@pytest.mark.parametrize("declared", [True, False])
def test_a_web_page_instead_of_the_file_is_refused(served: Served, tmp_path: Path, declared: bool) -> None:
    served.files["/w.pth"] = b"<!doctype html><p>Please log in"
    served.content_type = "text/html; charset=utf-8" if declared else "application/octet-stream"
    with pytest.raises(BadWeights, match="web page"):
        get(entry(served, sha256=None), tmp_path)
    assert leftovers(tmp_path) == set()


def test_too_little_space_is_noticed_before_anything_is_written(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(9, 8, 1_000_000))
    with pytest.raises(PrerequisiteError, match="5 MB are still to come, 1 MB are free") as caught:
        get(entry(served), tmp_path)
    assert caught.value.exit_code == 4


class FullDisk:
    """A file on a disk that has room for 2.5 MB."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, block: bytes) -> int:
        if self.file.tell() + len(block) > 2_500_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(block)


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode="r", **given: (FullDisk if mode == "ab" else lambda file: file)(
            really_open(path, mode, **given)))  # fmt: skip
        with pytest.raises(PrerequisiteError, match="no space left for w.pth.part.*What has arrived is kept"):
            get(entry(served), tmp_path)
    kept = (tmp_path / "w.pth.part").stat().st_size
    assert kept == 2 << 20
    assert get(entry(served), tmp_path).read_bytes() == CONTENT
    assert served.requests[-1][1] == f"bytes={kept}-"


def test_a_killed_download_is_resumed_by_the_next(served: Served, tmp_path: Path) -> None:
    """A process is killed with SIGKILL as soon as some of the file has arrived; three times."""
    served.files["/w.pth"] = CONTENT * 20
    toy = entry(served, sha256=hashlib.sha256(CONTENT * 20).hexdigest())
    code = (
        "import sys; from pathlib import Path; from talkbench.weights import fetch; "
        "from talkbench.weights.catalog import Entry; "
        "fetch.fetch(Entry.model_validate_json(sys.argv[1]), Path(sys.argv[2]), accept_licence=False)"
    )
    part = tmp_path / "w.pth.part"
    reached = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, toy.model_dump_json(), tmp_path], cwd=ROOT)
        until = time.monotonic() + 60
        while time.monotonic() < until and child.poll() is None:
            if part.exists() and part.stat().st_size > reached:
                break
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (tmp_path / "w.pth").exists():
            break
        assert part.stat().st_size >= reached
        reached = part.stat().st_size
    assert reached > 0, "never killed in the middle"
    assert get(toy, tmp_path).read_bytes() == CONTENT * 20
    resumed = [wanted for _, wanted, _ in served.requests if wanted]
    assert resumed == sorted(resumed, key=lambda wanted: int(wanted[6:-1]))
    assert sum(wanted is None for _, wanted, _ in served.requests) == 1


def test_terms_are_agreed_to_before_anything_is_asked_of_the_network(served: Served, tmp_path: Path) -> None:
    toy = entry(served, non_commercial=True, licence="CC-BY-NC-4.0", licence_note="Non-commercial use only.")
    with pytest.raises(TalkbenchError, match="toy, CC-BY-NC-4.0: Non-commercial use only.\n.*--accept-licence"):
        get(toy, tmp_path)
    assert served.requests == []
    assert get(toy, tmp_path, accept_licence=True).exists()


def test_a_file_that_is_there_and_unknown_is_never_replaced(served: Served, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"mine")
    with pytest.raises(TalkbenchError, match="is there already.*Move it away"):
        get(entry(served), tmp_path)
    assert (tmp_path / "w.pth").read_bytes() == b"mine"
    assert served.requests == []


def test_two_processes_do_not_write_one_part(served: Served, tmp_path: Path) -> None:
    with (
        atomic.lock(tmp_path / ".w.pth.lock", wait=False),
        pytest.raises(TalkbenchError, match="another process is fetching toy"),
    ):
        get(entry(served), tmp_path)


def test_a_folder_that_cannot_be_written_is_said(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PrerequisiteError, match="cannot write w.pth into .*file"):
        get(entry(served), tmp_path / "file")


def test_offline_lists_what_is_missing_with_addresses_and_asks_nothing(served: Served, tmp_path: Path) -> None:
    toy = entry(served)
    with pytest.raises(PrerequisiteError, match=f"toy: w.pth from {served.url}/w.pth") as caught:
        fetch.require_at_hand([toy], tmp_path)
    assert caught.value.exit_code == 4
    (tmp_path / "w.pth").touch()
    fetch.require_at_hand([toy], tmp_path)
    assert served.requests == []


def test_an_https_address_that_leads_to_a_plain_one_is_refused(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a secure address comes from the plain server, as after a redirection."""
    really_open = download.urllib.request.urlopen
    monkeypatch.setattr(
        download.urllib.request, "urlopen", lambda _, **given: really_open(f"{served.url}/w.pth", **given)
    )
    with pytest.raises(TalkbenchError, match="leads to http://127.0.0.1.*could alter"):
        get(entry(served, urls=["https://example.org/w.pth"]), tmp_path)
    assert leftovers(tmp_path) == set()


HUB = {
    "/hub/config.json": b"{}",
    "/hub/tokenizer.model": b"words",
    "/hub/pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}',
    "/hub/pytorch_model-1.bin": b"\x80one",
    "/hub/pytorch_model-2.bin": b"\x80two",
}


def folder_entry(served: Served) -> Entry:
    parts = ["config.json", "tokenizer.model"]
    return entry(served, file="one-align", parts=parts, urls=[f"{served.url}/hub"], sha256=None)


def test_a_sharded_checkpoint_is_fetched_file_by_file_from_its_index(served: Served, tmp_path: Path) -> None:
    served.files.update(HUB)
    folder = get(folder_entry(served), tmp_path)
    assert {f"/hub/{path.name}": path.read_bytes() for path in folder.iterdir()} == HUB
    assert set(store.read_record(folder).files) == {Path(name).name for name in HUB}
    asked = len(served.requests)
    get(folder_entry(served), tmp_path)
    assert len(served.requests) == asked, "everything is there"


def test_a_sharded_checkpoint_goes_on_with_the_file_that_was_cut(served: Served, tmp_path: Path) -> None:
    served.files.update({name: content for name, content in HUB.items() if not name.endswith("2.bin")})
    with pytest.raises(NotThere, match=r"pytorch_model-2.bin"):
        get(folder_entry(served), tmp_path)
    served.files.update(HUB)
    served.requests.clear()
    get(folder_entry(served), tmp_path)
    assert [path for path, *_ in served.requests] == ["/hub/pytorch_model-2.bin"]


def test_a_checkpoint_of_one_safetensors_file_is_fetched_too(served: Served, tmp_path: Path) -> None:
    served.files.update({name: HUB[name] for name in ("/hub/config.json", "/hub/tokenizer.model")})
    with pytest.raises(TalkbenchError, match="has none of model.safetensors.index.json"):
        get(folder_entry(served), tmp_path)
    served.files["/hub/model.safetensors"] = b"tensors"
    assert (get(folder_entry(served), tmp_path) / "model.safetensors").read_bytes() == b"tensors"
