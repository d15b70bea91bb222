"""Ids, atomic files, registry, configuration, schema, migration, provenance."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from talkbench import atomic, config, ids, migrate
from talkbench.errors import TalkbenchError
from talkbench.metrics.base import RUNNERS, select
from talkbench.provenance import without_credentials
from talkbench.registry import Registry
from talkbench.schema import Asset, Item, ScoreRow
from talkbench.store.rows import RowStore, validate
from tests.support import ROOT, row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_digest_does_not_depend_on_key_order(value: dict[str, object]) -> None:
    assert ids.digest(value) == ids.digest(dict(reversed(list(value.items()))))


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        ids.digest({"x": float("nan")})


def test_every_part_of_a_score_key_matters() -> None:
    base = dict(
        clip_sha256="c", metric="m", metric_version="1", params="p", decode_policy="d", weights={"w": "1"}, inputs={}
    )
    keys = {ids.score_key(**base)}
    for name, other in {"weights": {"w": "2"}, "inputs": {"truth": "t"}}.items():
        keys.add(ids.score_key(**(base | {name: other})))
    for name in ("clip_sha256", "metric", "metric_version", "params", "decode_policy"):
        keys.add(ids.score_key(**(base | {name: "other"})))
    assert len(keys) == 8


def test_a_failed_replacement_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic.write_text(path, "old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as file:
        file.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


@given(st.binary(max_size=200))
def test_a_torn_last_line_is_cut_off_and_whole_lines_stay(tail: bytes) -> None:
    import tempfile

    tail = tail.replace(b"\n", b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.jsonl"
        path.write_bytes(b'{"a": 1}\n{"b": 2}\n' + tail)
        file = atomic.AppendFile(path)
        assert file.repaired_bytes == len(tail)
        file.append(['{"c": 3}'])
        file.close()
        assert path.read_text().splitlines() == ['{"a": 1}', '{"b": 2}', '{"c": 3}']


def test_a_line_longer_than_a_block_is_repaired_too(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 300_000)
    atomic.AppendFile(path).close()
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_part_has_one_writer(tmp_path: Path) -> None:
    first = atomic.AppendFile(tmp_path / "part.jsonl")
    with pytest.raises(BlockingIOError):
        atomic.AppendFile(tmp_path / "part.jsonl")
    first.close()
    atomic.AppendFile(tmp_path / "part.jsonl").close()


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(TalkbenchError, match="Did you mean 'flicker'"):
        select(["flickr"])
    with pytest.raises(TalkbenchError, match="no metric chosen"):
        select([","])


def test_groups_and_lists_select_each_runner_once() -> None:
    chosen = [r.name for r in select(["vbench,flicker", "flicker"])]
    assert sorted(chosen) == ["background", "flicker", "smoothness", "subject"]
    assert [r.name for r in select(["all"])] == list(RUNNERS.names())


def test_a_broken_registration_names_itself() -> None:
    registry = Registry("metric", {"x": "talkbench.nowhere:Thing"}, "talkbench.none", "talkbench score --help")
    with pytest.raises(TalkbenchError, match=r"metric 'x' \(talkbench.nowhere:Thing\) cannot be imported"):
        registry.get("x")


def test_a_wrong_key_in_the_configuration_is_named_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("metric: [flicker]\n")
    with pytest.raises(TalkbenchError, match=r"run.yaml: unknown key 'metric'. Did you mean 'metrics'"):
        config.load(path)
    path.write_text("jobs: many\n")
    with pytest.raises(TalkbenchError, match=r"jobs: .*integer"):
        config.load(path)
    path.write_text("metrics: [flicker\n")
    with pytest.raises(TalkbenchError, match=r"cannot read the configuration"):
        config.load(path)


def test_command_line_options_win_over_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("metrics: [flicker]\njobs: 3\n")
    chosen = config.load(path).with_overrides(jobs=1, suite=None)
    assert (chosen.jobs, chosen.metrics, chosen.suite) == (1, ("flicker",), None)


@pytest.mark.parametrize("bad", ["../x.wav", "/etc/passwd", "a/../../b.png", "a\\b.png", "a\nb"])
def test_an_asset_never_leaves_its_suite(bad: str) -> None:
    with pytest.raises(ValidationError, match="leaves the suite"):
        Asset(path=bad, sha256="0" * 64)


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a\\b", "a\tb", "x" * 201])
def test_an_item_id_is_a_plain_name(bad: str) -> None:
    with pytest.raises(ValidationError):
        Item(id=bad, tier="short", identity="x", duration_seconds=1)


@pytest.mark.parametrize(
    ("value", "status"), [(None, "ok"), (1.0, "failed"), (float("nan"), "ok"), (float("inf"), "ok")]
)
def test_a_row_has_a_finite_value_exactly_if_it_is_ok(value: float | None, status: str) -> None:
    with pytest.raises(ValidationError):
        ScoreRow.model_validate(row("a", "i", 0.5) | {"value": value, "status": status})


def test_rows_of_every_schema_version_still_load() -> None:
    found = sorted((ROOT / "tests" / "data" / "rows").glob("v*.jsonl"))
    assert found
    for path in found:
        rows = [migrate.lift(json.loads(line), str(path)) for line in path.read_text().splitlines()]
        assert len(validate(rows)) == len(rows) > 0


def test_a_newer_schema_is_refused_with_the_way_out() -> None:
    with pytest.raises(TalkbenchError, match="pip install --upgrade talkbench"):
        migrate.lift({"schema_version": 999}, "rows/part-0000.jsonl, line 1")


def test_a_broken_line_inside_a_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0000.jsonl").write_text('{"schema_version": 1}{\n')
    with pytest.raises(TalkbenchError, match=r"part-0000.jsonl, line 1 .*not JSON"):
        RowStore(tmp_path).refresh()


def test_credentials_are_struck_from_provenance() -> None:
    told = without_credentials("fetch https://me:secret@host/x?token=abc&y=1 password=hunter2")
    assert "secret" not in told
    assert "abc" not in told
    assert "hunter2" not in told
