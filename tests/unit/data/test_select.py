"""Which clips are chosen, which are not and why, and what trainers must leave out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkbench.data import pools, protocol
from talkbench.data.allocate import Pool, Used, allocate
from talkbench.data.exclusions import check_overlap
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.select import select
from talkbench.errors import TalkbenchError
from tests.unit.data import metadata


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with an index, large enough for all quotas but those that the data cannot meet."""
    root = tmp_path_factory.mktemp("data")
    meta = metadata.write_all(root / "meta", num_talkvid=16_000, num_bench=1600, num_speakervid=4000)
    index(
        Build(root / "build"),
        talkvid=[meta / "talkvid"],
        speakervid=[meta / "speakervid"],
        estimates=meta / "estimates.jsonl",
    )
    return root


@pytest.fixture(scope="module")
def selected(indexed: Path) -> list[dict[str, Any]]:
    records = json.loads((indexed / "meta" / "talkvid" / "filtered_video_clips.json").read_text())
    select(Build(indexed / "build"), adults=young(records))
    return [json.loads(line) for line in Build(indexed / "build").selection.read_text().splitlines()]


def young(records: list[dict[str, Any]]) -> frozenset[str]:
    """Return the persons of the youngest group, as if public sources showed them to be adults."""
    return frozenset(f"talkvid:{r['info']['Person ID']}" for r in records if r["info"]["Age Group"] == "0-19")


def accepted(entries: list[dict[str, Any]], tier: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["tier"] == tier and entry["slot"]]


def test_ranks_are_those_of_the_formula_in_any_language() -> None:
    expected = hashlib.sha256(b"tb-select/1|20251230|talkvid|clip").digest()
    assert protocol.digest(20251230, "talkvid", "clip") == expected


def test_totals_are_shared_out_by_largest_remainder() -> None:
    assert protocol.apportion({"a": 1, "b": 1, "c": 1}, 100) == {"a": 34, "b": 33, "c": 33}
    assert protocol.apportion({"a": 35, "b": 45, "c": 20}, 10) == {"a": 4, "b": 4, "c": 2}
    assert sum(protocol.apportion(protocol.SHORT.quotas["age"], 7).values()) == 7


def test_the_published_quotas_add_up_to_the_size_of_their_tier() -> None:
    for plan in protocol.PLANS.values():
        for axis, cells in plan.quotas.items():
            extra = plan.num_languages * plan.language_share if axis == "language" else 0
            assert sum(cells.values()) + extra == plan.size, axis
        assert sum(plan.orientation.values()) == plan.size


def test_a_pool_that_can_meet_every_quota_meets_every_quota() -> None:
    random = np.random.default_rng(0)
    count = 20_000
    cells = np.stack([random.integers(0, n, count) for n in (2, 5, 3)], axis=1).astype(np.int16)
    names = np.arange(count, dtype=np.uint64)
    free = np.zeros(count, bool)
    pool = Pool(cells, random.permutation(count), names, names, free, free)
    quotas = [[50, 50], [4, 26, 32, 24, 14], [35, 45, 20]]
    taken = allocate(pool, quotas, 100, Used())
    for part in (taken[:100], taken[100:]):
        for axis, quota in enumerate(quotas):
            assert np.bincount(cells[part, axis], minlength=len(quota)).tolist() == quota


def test_of_equal_candidates_the_one_of_lowest_rank_is_taken_and_no_person_or_source_twice() -> None:
    cells = np.zeros((5, 1), np.int16)
    position = np.array([4, 0, 1, 2, 3])
    persons = np.array([1, 2, 2, 3, 4], np.uint64)
    sources = np.array([1, 2, 3, 2, 4], np.uint64)
    free = np.zeros(5, bool)
    used = Used()
    assert allocate(Pool(cells, position, persons, sources, free, free), [[2]], 2, used) == [1, 4, 0]
    assert used.persons == {1, 2, 4}


def test_with_enough_candidates_the_short_tier_meets_its_table(indexed: Path, selected: list[dict[str, Any]]) -> None:
    report = json.loads(Build(indexed / "build").select_report.read_text())
    assert report["accepted"] == {"short": 100, "long": 20}
    assert report["reserve"] == {"short": 100, "long": 20}
    for tier in ("short", "long"):
        for axis, cells in report["quotas"][tier].items():
            for cell, (wanted, achieved) in cells.items():
                assert axis in {"length", "assembly"} or abs(achieved - wanted) <= 1, (tier, axis, cell)
    exact = [w == a for cells in report["quotas"]["short"].values() for w, a in cells.values()]
    assert sum(exact) >= len(exact) - 2, "a greedy choice may end one swap away from the table"
    assert accepted(selected, "short")[0]["slot"] == "tbs-0001"


def test_the_report_counts_what_was_chosen(indexed: Path, selected: list[dict[str, Any]]) -> None:
    report = json.loads(Build(indexed / "build").select_report.read_text())
    for tier in ("short", "long"):
        chosen = accepted(selected, tier)
        counted = Counter(entry["strata"]["gender"][0] for entry in chosen)
        assert {cell: got for cell, (_, got) in report["quotas"][tier]["gender"].items()} == counted
        turned = Counter(entry["orientation"] for entry in chosen)
        assert {c: got for c, (_, got) in report["quotas"][tier]["orientation"].items() if got} == turned


def test_no_person_and_no_source_stands_twice_in_both_tiers_and_reserves(selected: list[dict[str, Any]]) -> None:
    for key in ("person_key", "source_key"):
        assert max(Counter(entry[key] for entry in selected).values()) == 1


def test_every_chosen_clip_obeys_the_filter(selected: list[dict[str, Any]]) -> None:
    for entry in (entry for entry in selected if entry["tier"] == "short"):
        window = entry["segments"][0]
        assert 4 <= round(window["end"] - window["start"], 6) < 10
        assert entry["height"] >= 720
        origin = "estimated" if entry["dataset"] == "speakervid" else "label"
        assert {entry["strata"][axis][1] for axis in ("gender", "age", "ethnicity", "language")} == {origin}


def test_long_windows_are_over_five_minutes_and_lie_within_the_span_of_the_person(
    selected: list[dict[str, Any]],
) -> None:
    for entry in (entry for entry in selected if entry["tier"] == "long"):
        window = entry["segments"][0]
        low, high = protocol.XL_SECONDS if entry["xl"] else protocol.LONG_SECONDS
        assert low <= round(window["end"] - window["start"], 6) <= high


def test_the_reference_is_away_from_the_window_and_says_by_which_rule(selected: list[dict[str, Any]]) -> None:
    for entry in selected:
        window = entry["segments"][0]
        assert len(entry["references"]) == 1
        for clip in entry["references"]:
            if clip["source_key"] == entry["source_key"]:
                assert clip["end"] <= window["start"] - 2 + 1e-6 or clip["start"] >= window["end"] + 2 - 1e-6
            else:
                assert clip["rule"] == 3


def test_two_runs_are_identical_and_another_seed_is_another_choice(indexed: Path, tmp_path: Path) -> None:
    reports, lines = [], []
    for name, seed in (("one", protocol.SEED), ("two", protocol.SEED), ("three", 1)):
        build = Build(tmp_path / name)
        build.candidates.parent.mkdir(parents=True)
        for path in (Build(indexed / "build").candidates, Build(indexed / "build").index_report):
            (build.candidates.parent / path.name).write_bytes(path.read_bytes())
        reports.append(select(build, seed=seed))
        lines.append(build.selection.read_bytes() + build.exclusions.read_bytes())
    assert (reports[0], lines[0]) == (reports[1], lines[1])
    assert lines[2] != lines[0]


def test_every_candidate_is_chosen_from_or_counted(indexed: Path) -> None:
    build = Build(indexed / "build")
    counts: dict[str, Counter[str]] = {"short": Counter(), "long": Counter()}
    short, _ = pools.collect(build.candidates, 1, frozenset(), counts)
    rows = json.loads(build.index_report.read_text())["rows"]
    assert short.rows_N.size + sum(counts["short"].values()) == rows


def test_a_group_shown_to_be_adult_may_be_chosen(tmp_path: Path) -> None:
    records = [r | {"info": r["info"] | {"Age Group": "0-19"}} for r in metadata.talkvid(400, clips_per_source=4)]
    build = Build(tmp_path / "build")
    index(build, talkvid=[metadata.write_array(tmp_path / "m.json", records)])
    assert select(build).accepted == {"short": 0, "long": 0}
    adults = frozenset(f"talkvid:{record['info']['Person ID']}" for record in records[::20])
    assert 0 < select(build, adults=adults).accepted["short"] <= len(adults)


def test_a_person_with_two_genders_gives_no_long_window(tmp_path: Path) -> None:
    records = list(metadata.talkvid(30, clips_per_source=30))
    good = [r | {"dover_scores": 8.0, "cotracker_ratio": 0.95} for r in records]
    for record in good:
        record["head_detail"]["scores"]["avg_orientation"] = 90.0
    other = "Male" if good[0]["info"]["Gender"] == "Female" else "Female"
    wrong = [good[0] | {"info": good[0]["info"] | {"Gender": other}}, *good[1:]]
    for name, given, number in (("good", good, 1), ("wrong", wrong, 0)):
        build = Build(tmp_path / name)
        index(build, talkvid=[metadata.write_array(tmp_path / f"{name}.json", given)])
        report = select(build)
        assert report.accepted["long"] + report.reserve["long"] == number
    assert report.rejected["long"]["source:contradictory-gender"] == 1


def test_a_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    build = Build(tmp_path)
    with pytest.raises(TalkbenchError, match="talkbench data index"):
        select(build)
    index(build, talkvid=[metadata.write_array(tmp_path / "m.json", metadata.talkvid(10))])
    build.candidates.write_bytes(b"PAR1")
    with pytest.raises(TalkbenchError, match="not what the index wrote"):
        select(build)


def test_exclusions_hold_reserve_and_sibling_clips(indexed: Path, selected: list[dict[str, Any]]) -> None:
    excluded = json.loads(Build(indexed / "build").exclusions.read_text())
    assert set(excluded["persons"]) == {entry["person_key"] for entry in selected}
    assert {f"{e['dataset']}:{e['clip_id']}" for e in selected} < set(excluded["clips"])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("{clip_id}", "clip"),
        ("{dataset}:{clip_id}", "clip"),
        ("clips/{clip_id}.mp4", "clip"),
        ("{source_key}", "source"),
        ("{video}", "source"),
        ("https://youtu.be/{video}?t=3", "source"),
        ("{video}_full_video_1280×720_001_A", "source"),
        ("{person_key}", "person"),
    ],
)
def test_every_form_of_an_excluded_id_is_found(
    indexed: Path, selected: list[dict[str, Any]], tmp_path: Path, form: str, kind: str
) -> None:
    excluded = json.loads(Build(indexed / "build").exclusions.read_text())
    entry = selected[-1]
    ids = tmp_path / "ids.txt"
    ids.write_text("harmless-clip\n\n" + form.format(**entry, video=entry["source_key"][3:]) + "\n")
    found = check_overlap(ids, excluded)
    assert (found.read, found.overlapping, found.clean) == (2, 1, False)
    assert found.hits[kind] == 1


def test_records_are_compared_by_id_person_and_address(
    indexed: Path, selected: list[dict[str, Any]], tmp_path: Path
) -> None:
    excluded = json.loads(Build(indexed / "build").exclusions.read_text())
    entry = next(entry for entry in selected if entry["dataset"] == "talkvid")
    record = next(metadata.talkvid(1, seed=77))
    safe = record | {
        "id": "new",
        "info": record["info"] | {"Video Link": "https://youtu.be/zzzzzzzzzzz", "Person ID": "1"},
    }
    hit = safe | {"info": safe["info"] | {"Person ID": entry["person_key"].partition(":")[2]}}
    (tmp_path / "ids.json").write_text(json.dumps([safe, hit]))
    found = check_overlap(tmp_path / "ids.json", excluded)
    assert (found.read, found.overlapping, dict(found.hits)) == (2, 1, {"person": 1})


def test_lines_that_cannot_be_read_leave_the_verdict_open(indexed: Path, tmp_path: Path) -> None:
    excluded = json.loads(Build(indexed / "build").exclusions.read_text())
    (tmp_path / "ids").write_bytes(b"fine\n\xff\xfe\n")
    found = check_overlap(tmp_path / "ids", excluded)
    assert (found.read, found.overlapping, dict(found.unreadable), found.clean) == (1, 0, {"not-utf8": 1}, False)
    (tmp_path / "ids").write_bytes(b"fine\n")
    assert check_overlap(tmp_path / "ids", excluded).clean
    (tmp_path / "ids").write_bytes(b"\n")
    with pytest.raises(TalkbenchError, match="no id"):
        check_overlap(tmp_path / "ids", excluded)
    with pytest.raises(TalkbenchError, match="no exclusion list"):
        check_overlap(tmp_path / "ids", {"schema": "talkbench/exclusions/1"})
