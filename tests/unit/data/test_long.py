"""How five minutes of one person are found: uncut, in two halves, from pieces; and in which order of preference."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkbench.data import placing, protocol, spans
from talkbench.data.allocate import Pool, Used, allocate
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.manifest import Selected
from talkbench.data.select import select
from tests.unit.data import metadata


def arrays(*clips: tuple[float, float], **changes: Any) -> dict[str, np.ndarray]:
    """Return the columns of one person's clips, given as (start, end)."""
    size = len(clips)
    columns = {
        "rows": np.arange(size), "persons": np.zeros(size, np.uint64), "sources": np.zeros(size, np.uint64),
        "start": np.array([start for start, _ in clips], float), "end": np.array([end for _, end in clips], float),
        "share": np.full(size, 0.05), "good": np.ones(size, bool), "filmed": np.zeros(size, bool),
        "pieces_only": np.zeros(size, bool), "gender": np.zeros(size, np.int16), "language": np.zeros(size, np.int16),
    }  # fmt: skip
    return columns | {name: np.full(size, value) for name, value in changes.items()}


def only(columns: dict[str, np.ndarray]) -> spans.Window | str:
    counts = Counter[str]()
    found = list(spans.windows(columns, counts))
    return found[0] if found else next(iter(counts))


def every(seconds: float, count: int, length: float, first: float = 0.0) -> list[tuple[float, float]]:
    return [(first + n * seconds, first + n * seconds + length) for n in range(count)]


def test_clips_that_span_and_cover_enough_give_one_uncut_window() -> None:
    found = only(arrays(*every(20, 18, 8, first=50)))
    assert isinstance(found, spans.Window)
    assert (found.assembly, found.spans, found.xl, found.filmed) == ("continuous", ((50.0, 348.0),), False, False)


def test_one_clip_of_five_minutes_is_a_window_with_its_picture() -> None:
    found = only(arrays((10, 40), (60, 480), filmed=True))
    assert isinstance(found, spans.Window)
    assert (found.assembly, found.spans, found.filmed) == ("continuous", ((60.0, 420.0),), True)


def test_a_long_silence_splits_a_source_into_two_windows_that_are_joined_once() -> None:
    found = only(arrays(*every(20, 18, 8), *every(20, 18, 8, first=3000)))
    assert isinstance(found, spans.Window)
    assert (found.assembly, found.xl) == ("joined_xl", True)
    assert found.spans == ((0.0, 348.0), (3000.0, 348.0))


def test_the_half_that_is_long_enough_alone_is_uncut() -> None:
    found = only(arrays(*every(20, 18, 8), (9000, 9010)))
    assert isinstance(found, spans.Window)
    assert (found.assembly, found.spans) == ("continuous", ((0.0, 348.0),))


def test_utterances_far_apart_are_joined() -> None:
    found = only(arrays(*every(200, 40, 8)))
    assert isinstance(found, spans.Window)
    assert (found.assembly, found.spans, found.xl) == ("joined", (), False)


def test_turns_of_a_dialogue_are_only_ever_joined() -> None:
    found = only(arrays(*every(20, 40, 10), pieces_only=True))
    assert isinstance(found, spans.Window)
    assert found.assembly == "joined"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (arrays(*every(20, 10, 8)), "source:span-too-short"),
        (arrays(*every(200, 10, 8)), "source:covered-too-little"),
        (arrays(*every(20, 18, 8), good=False), "source:no-good-clip"),
        (arrays(*every(20, 30, 8), pieces_only=True), "source:spoken-too-little"),
        (arrays(*every(5, 80, 8), pieces_only=True) | {"language": np.arange(80) % 2}, "source:contradictory-language"),
    ],
)
def test_a_person_without_a_window_is_counted_by_reason(columns: dict[str, np.ndarray], reason: str) -> None:
    assert only(columns) == reason


def test_overlapping_clips_count_once() -> None:
    assert spans._spoken(np.array([0.0, 1.0, 5.0]), np.array([4.0, 3.0, 6.0])) == 5.0


def test_joined_candidates_come_last_and_never_exceed_their_part() -> None:
    size = 40
    cells = np.zeros((size, 1), np.int16)
    names = np.arange(size, dtype=np.uint64)
    joined = np.arange(size) < 30
    pool = Pool(cells, np.arange(size), names, names, joined, joined)
    taken = allocate(pool, [[10]], 10, Used(), max_joined=3)
    assert taken == [*range(30, 40), 0, 1, 2], "all that is uncut, then the reserve's part of what is joined"


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> list[Selected]:
    """A selection from sources of which one in four is uncut, the others pieces far apart."""
    root = tmp_path_factory.mktemp("long")
    records = list(metadata.talkvid(960, clips_per_source=40, gap_seconds=12.0))
    far = list(metadata.talkvid(2400, seed=5, clips_per_source=40, gap_seconds=120.0))
    for number, record in enumerate(far):
        record["id"] = f"far-{number}"
        record["info"] = record["info"] | {
            "Person ID": f"9{record['info']['Person ID']}", "Video Link": record["info"]["Video Link"][:-1] + "9",
        }  # fmt: skip
    for record in (*records, *far):
        record |= {"dover_scores": 8.0, "cotracker_ratio": 0.95}
        record["head_detail"]["scores"]["avg_orientation"] = 90.0
    build = Build(root / "build")
    index(build, talkvid=[metadata.write_array(root / "meta.json", [*records, *far])])
    select(build, sizes={"short": 0, "long": 20})
    lines = build.selection.read_text().splitlines()
    return [Selected.model_validate(json.loads(line)) for line in lines]


def test_at_most_six_of_twenty_are_joined(chosen: list[Selected]) -> None:
    kinds = Counter(entry.assembly for entry in chosen if entry.slot)
    assert 0 < kinds["joined"] + kinds["joined_xl"] <= 6
    assert kinds["continuous"] >= 1


def test_the_report_counts_what_is_uncut_and_what_is_joined(tmp_path: Path) -> None:
    build = Build(tmp_path / "build")
    records = list(metadata.talkvid(320, clips_per_source=40, gap_seconds=12.0))
    for record in records:
        record |= {"dover_scores": 8.0, "cotracker_ratio": 0.95}
        record["head_detail"]["scores"]["avg_orientation"] = 90.0
    index(build, talkvid=[metadata.write_array(tmp_path / "meta.json", records)])
    report = select(build, sizes={"short": 0, "long": 20})
    assert report.quotas["long"]["assembly"] == {"uncut": [14, report.accepted["long"]], "joined": [6, 0]}


def test_joined_pieces_are_whole_utterances_in_order_with_pauses_of_a_breath(chosen: list[Selected]) -> None:
    joined = [entry for entry in chosen if entry.assembly == "joined"]
    assert joined
    low, high = (ms / 1000 for ms in protocol.PAUSE_MS)
    for entry in joined:
        first, *others = entry.segments
        assert first.pause_seconds == 0
        assert all(low <= piece.pause_seconds <= high for piece in others)
        assert all(a.end <= b.start for a, b in zip(entry.segments, others, strict=False))
        assert sum(piece.seconds + piece.pause_seconds for piece in entry.segments) > 300
        assert len({piece.pause_seconds for piece in others}) > 3, "a regular pause would hide drift"


def test_joined_pieces_of_speakervid_are_those_of_its_test_split(tmp_path: Path) -> None:
    speech = {"is_talking": 1, "clip_speaker_num": 1, "duration_new": 10.0, "dover": 0.8}
    clips = [
        (name, record | speech | {"start_new": 40.0 + 25 * at})
        for at, (name, record) in enumerate(metadata.speakervid(100, clips_per_source=100))
    ]
    clips = [(f"{name[:-1]}A", record) for name, record in clips]
    names = metadata.write_speakervid(tmp_path / "meta", clips)
    labels = {"gender": "Male", "language": "en", "face_share": 0.05}
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"clip_id": name, **labels}) + "\n" for name in names))
    build = Build(tmp_path / "build")
    index(build, speakervid=[tmp_path / "meta"], estimates=tmp_path / "e.jsonl")
    select(build, sizes={"short": 0, "long": 20})
    entry = Selected.model_validate(json.loads(build.selection.read_text()))
    test = {record["start_new"] for _, record in clips[::2]}
    assert (entry.assembly, {piece.start for piece in entry.segments} <= test) == ("joined", True)


def test_the_reference_of_a_joined_sample_lies_outside_all_its_pieces(chosen: list[Selected]) -> None:
    for entry in chosen:
        for clip in entry.references:
            if clip.source_key == entry.source_key:
                away = protocol.AWAY_SECONDS - 1e-6
                assert clip.end <= entry.segments[0].start - away or clip.start >= entry.segments[-1].end + away


def test_joined_reserve_never_takes_the_place_of_uncut_speech(chosen: list[Selected]) -> None:
    slot = next(entry for entry in chosen if entry.slot and entry.assembly == "continuous")
    reserve = slot.model_copy(update={"slot": None, "reserve_index": 0, "clip_id": "other", "assembly": "joined"})
    unusable = {placing.key(slot): False}
    assert placing.place([slot, reserve], unusable)[0].entry is None
    uncut = reserve.model_copy(update={"assembly": "continuous"})
    assert placing.place([slot, uncut], unusable)[0].entry == uncut
