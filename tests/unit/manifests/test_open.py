"""talkbench-open is frozen, can be made anywhere, and is what its manifest says."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from talkbench.errors import TalkbenchError
from talkbench.manifests import check as checking
from talkbench.manifests import fetch as fetching
from talkbench.manifests import load as manifests
from talkbench.mini import open as drawn
from talkbench.mini.suite import Performance, is_mini, mini_suite
from talkbench.schema import Item, Suite
from talkbench.systems.inputs import write_inputs

Fetched = tuple[Suite, Path]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    suite = manifests.load("open.v1")
    folder = tmp_path_factory.mktemp("open")
    done = fetching.fetch(suite, folder)
    assert (done.problems, done.num_files) == ([], 24)
    return suite, folder


def with_items(suite: Suite, *items: Item) -> Suite:
    return suite.model_copy(update={"items": items, "tiers": suite.tiers[:1]})


def test_the_frozen_list_is_what_the_generator_makes_today(fetched: Fetched) -> None:
    assert tuple(drawn.items()) == fetched[0].items


def test_the_suite_is_sound_and_shares_nobody_with_mini(fetched: Fetched) -> None:
    suite, folder = fetched
    assert checking.check(suite, folder) == []
    assert is_mini(suite), "drawn people, so that weights for drawn people may stand in"
    seeds = {(item.generator or {})["identity_seed"] for item in suite.items or ()}
    assert len(seeds) == 12
    assert not seeds & {(item.generator or {})["identity_seed"] for item in mini_suite().items or ()}


def test_files_have_the_shapes_and_lengths_of_their_items(fetched: Fetched) -> None:
    for item in fetched[0].items or ():
        with Image.open(fetched[1] / item.id / "image.bmp") as picture:
            assert picture.size == drawn.SIZES[item.tags[-1]]
        with wave.open(str(fetched[1] / item.id / "audio.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            assert file.getnframes() == item.duration_seconds * 16_000


def test_a_fetched_folder_is_a_suite_of_the_same_name_with_the_same_inputs(fetched: Fetched, tmp_path: Path) -> None:
    suite, folder = fetched
    again = manifests.load(str(folder / "open.v1.jsonl"))
    assert (again.id, again.items) == (suite.id, suite.items)
    item = (suite.items or ())[0]
    made = []
    for name, assets in (("files", folder), ("drawn", None)):
        (tmp_path / name).mkdir()
        inputs = write_inputs(item, tmp_path / name, assets)
        made.append((inputs.image.read_bytes(), inputs.audio.read_bytes()))
        assert inputs.audio_seconds == item.duration_seconds
    assert made[0] == made[1]


def test_a_fetch_keeps_what_is_whole_and_mends_what_is_not(
    fetched: Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = with_items(fetched[0], *(fetched[0].items or ())[:2])
    fetching.fetch(suite, tmp_path)
    (tmp_path / "open-s01" / "audio.wav").write_bytes(b"torn")
    asked = []
    real = fetching.obtain
    monkeypatch.setattr(fetching, "obtain", lambda item, asset: asked.append(asset.path) or real(item, asset))
    done = fetching.fetch(suite, tmp_path)
    assert (asked, done.num_files) == (["open-s01/audio.wav"], 4)


def test_files_beside_a_manifest_are_checked_and_never_made(fetched: Fetched, tmp_path: Path) -> None:
    first, second = (fetched[0].items or ())[:2]
    suite = with_items(fetched[0], first, second)
    fetching.fetch(suite, tmp_path)
    (tmp_path / "open-s01" / "audio.wav").unlink()
    (tmp_path / "open-s02" / "image.bmp").write_bytes(b"BM")
    done = fetching.fetch(suite, tmp_path, beside=tmp_path)
    assert [item for item, _ in done.problems] == ["open-s01", "open-s02"]
    assert "is not there" in done.problems[0][1]
    assert "another sha256" in done.problems[1][1]
    told = checking.check(suite.model_copy(update={"tiers": fetched[0].tiers}), tmp_path)
    assert any("audio.wav is not there" in problem for problem in told)


def test_what_this_version_draws_otherwise_is_refused(fetched: Fetched, tmp_path: Path) -> None:
    item = (fetched[0].items or ())[0]
    assert item.image is not None
    other = item.model_copy(update={"image": item.image.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(TalkbenchError, match="the manifest froze 0000"):
        fetching.fetch(with_items(fetched[0], other), tmp_path)
    newer = item.model_copy(update={"generator": (item.generator or {}) | {"version": 2}})
    with pytest.raises(TalkbenchError, match="drawn by generator 2"):
        Performance(newer).identity  # noqa: B018


def test_suites_without_files_say_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="talkbench data index"):
        fetching.fetch(manifests.load("short"), tmp_path)
    with pytest.raises(TalkbenchError, match="drawn when"):
        fetching.fetch(mini_suite(num_long=0), tmp_path)


def test_the_check_finds_doubles_and_files_that_are_not_what_the_manifest_says(
    fetched: Fetched, tmp_path: Path
) -> None:
    first, second = (fetched[0].items or ())[:2]
    same = second.model_copy(update={"audio": first.audio})
    assert checking.check(with_items(fetched[0], first, same))[-1] == "item open-s02: has the audio of item open-s01"
    fetching.fetch(with_items(fetched[0], first), tmp_path)
    longer = first.model_copy(update={"duration_seconds": 5.0})
    told = checking.check(with_items(fetched[0], longer), tmp_path)
    assert any("lasts 4.00 s, the manifest says 5.00 s" in problem for problem in told)
    assert checking.languages(fetched[0]) == {"synthetic": 12}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id": "a", "tier": "short", "identity": "p"}', "duration_seconds"),
        (b'{"id": "a", "tier": "short", "identity": "p", "duration_seconds": "long"}', "duration_seconds"),
        (b'{"id": "a", "tier": "short", "identity": "p", "duration_seconds": 4, "new": 1}', "new"),
        (b'{"id": "a/b", "tier": "short", "identity": "p", "duration_seconds": 4}', "no slash"),
        (b"\xff\xfe", "cannot read the manifest"),
        (b"", "no items"),
    ],
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path: Path, line: bytes, what: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line + b"\n")
    with pytest.raises(TalkbenchError, match=what):
        manifests.load(str(tmp_path / "a.jsonl"))


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "tier": "short", "identity": "p", "duration_seconds": 4})
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(TalkbenchError, match="more than once: a"):
        manifests.load(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_line_of_a_manifest_ends_at_its_line_feed_alone(tmp_path: Path, character: str) -> None:
    text = f"one{character}two"
    item = {"id": "a", "tier": "short", "identity": "p", "duration_seconds": 4, "text": text}
    lines = [json.dumps(item | {"id": name}, ensure_ascii=False) for name in ("a", "b")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [item.text for item in manifests.load(str(tmp_path / "a.jsonl")).items or ()] == [text, text]
