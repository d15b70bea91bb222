"""Means, intervals, tests: known answers, coverage, and independence of order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkbench.schema import Item, Suite, TierRule
from talkbench.stats import aggregate, compare
from talkbench.stats.intervals import mean_interval
from tests.support import row

FLICKER = "vbench.temporal_flickering"


def suite(items: list[str]) -> Suite:
    return Suite(
        name="t", version=1, title="t", description="t", licence="x", tiers=(TierRule(name="short", title="Short"),),
        items=tuple(Item(id=i, tier="short", identity=i, duration_seconds=2) for i in items),
    )  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 11)), min_size=2, max_size=40), st.randoms())
def test_an_interval_contains_its_mean_and_ignores_the_order_of_clips(data: list[tuple[float, int]], random) -> None:
    first = mean_interval([v for v, _ in data], [str(c) for _, c in data])
    random.shuffle(data)
    again = mean_interval([v for v, _ in data], [str(c) for _, c in data])
    assert (first.low, first.high) == (again.low, again.high)
    assert first.mean == pytest.approx(np.mean([v for v, _ in data]), abs=1e-9)
    if first.low is not None and first.high is not None:
        assert first.low - 1e-9 <= first.mean <= first.high + 1e-9


@pytest.mark.parametrize(("clusters", "per_cluster"), [(3, 1), (5, 2), (12, 2), (20, 1)])
def test_a_95_percent_interval_covers_about_95_percent(clusters: int, per_cluster: int) -> None:
    rng, hits, trials = np.random.default_rng(1), 0, 600
    names = [str(k) for k in range(clusters) for _ in range(per_cluster)]
    for _ in range(trials):
        values = np.repeat(rng.normal(size=clusters), per_cluster) + rng.normal(size=clusters * per_cluster)
        interval = mean_interval(values.tolist(), names)
        hits += interval.low <= 0 <= interval.high
    assert 0.925 <= hits / trials <= 0.975


def test_clips_of_one_identity_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(1)
    people = rng.normal(size=10)
    values = np.repeat(people, 20) + rng.normal(scale=0.01, size=200)
    clustered = mean_interval(values.tolist(), [str(k) for k in range(10) for _ in range(20)])
    naive = mean_interval(values.tolist(), [str(k) for k in range(200)])
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)


def test_one_identity_has_a_mean_but_no_interval() -> None:
    interval = mean_interval([1.0, 2.0], ["a", "a"])
    assert (interval.mean, interval.low, interval.high, interval.excludes_zero) == (1.5, None, None, False)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([], [])


def test_the_sign_flip_test_is_exact_for_few_identities() -> None:
    assert compare.sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert compare.sign_flip_p(np.array([1.0, -1.0])) == 1.0
    many = np.random.default_rng(0).normal(loc=1.0, size=30)
    assert compare.sign_flip_p(many) < 0.001


def test_the_sign_flip_test_holds_its_level_under_no_difference() -> None:
    rng = np.random.default_rng(3)
    p_values = [compare.sign_flip_p(rng.normal(size=10)) for _ in range(600)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_holms_correction_follows_the_textbook() -> None:
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert compare.holm([]) == []


def test_a_better_system_wins_and_no_difference_is_a_tie() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        level = rng.uniform(0.9, 0.95)
        rows += [
            row("a", f"i{i}", level + 0.02),
            row("b", f"i{i}", level),
            row("c", f"i{i}", level + rng.normal(scale=0.01)),
        ]
    (better,) = compare.compare(rows, "a", "b")
    assert (better.verdict, better.win_rate, better.num_clips) == ("A", 1.0, 20)
    assert better.difference.mean == pytest.approx(0.02)
    assert better.p_holm < 0.001
    assert better.p_wilcoxon < 0.001
    assert compare.compare(rows, "b", "a")[0].verdict == "B"
    assert compare.compare(rows, "b", "c")[0].verdict == "tie"


def test_only_shared_clips_are_compared() -> None:
    rows = (
        [row("a", f"i{i}", 0.9) for i in range(6)]
        + [row("b", f"i{i}", 0.8) for i in range(3, 9)]
        + [row("b", "i0", None)]
    )
    assert compare.compare(rows, "a", "b")[0].num_clips == 3
    assert compare.compare(rows[:6], "a", "b") == []


def test_few_identities_cannot_be_significant_and_say_so() -> None:
    rows = [row(s, f"i{i}", v) for i in range(3) for s, v in (("a", 0.9), ("b", 0.1))]
    (found,) = compare.compare(rows, "a", "b")
    assert (found.p_value, found.p_least, found.verdict) == (0.25, 0.25, "tie")


def test_an_offset_is_compared_by_its_distance_from_zero() -> None:
    rows = [
        row(s, f"i{i}", v, output="av.offset", metric="av")
        for i in range(10)
        for s, v in (("late", -3.0), ("early", 2.0))
    ]
    assert compare.compare(rows, "early", "late")[0].verdict == "A"


# --- aggregation


def column(
    rows: list[dict], systems: list[str], items: list[str], policy: aggregate.Policy = "complete"
) -> aggregate.Column:
    (found,) = aggregate.columns(rows, systems, suite(items), policy)
    return found


def test_complete_cases_do_not_reward_a_system_that_fails_on_hard_clips() -> None:
    items = [f"i{i}" for i in range(10)]
    hard = {"i8", "i9"}
    rows = [row("a", i, 0.5 if i in hard else 0.9) for i in items]
    rows += [row("b", i, None if i in hard else 0.85) for i in items]
    complete = column(rows, ["a", "b"], items)
    assert complete.cells["a"].interval.mean == pytest.approx(0.9)
    assert complete.cells["b"].interval.mean == pytest.approx(0.85)
    assert (complete.cells["b"].num_ok, complete.cells["b"].num_expected) == (8, 10)
    assert complete.cells["b"].reasons == {"one-frame": 2}
    available = column(rows, ["a", "b"], items, "available")
    assert available.cells["a"].interval.mean == pytest.approx(0.82)
    assert any("different clips" in note for note in available.notes)


def test_a_worst_case_mean_appears_where_coverage_differs() -> None:
    items = [f"i{i}" for i in range(10)]
    rows = [row("a", i, 0.9) for i in items] + [row("b", i, 0.95 if i != "i9" else None) for i in items]
    found = column(rows, ["a", "b"], items)
    assert found.cells["a"].worst_case is None
    assert found.cells["b"].worst_case == pytest.approx(0.95 * 9 / 10 + 0.0 / 10)


def test_a_clip_without_file_lowers_coverage() -> None:
    items = ["i0", "i1", "i2"]
    found = column([row("a", "i0", 0.9), row("a", "i1", 0.9)], ["a"], items)
    assert (found.cells["a"].num_ok, found.cells["a"].num_expected) == (2, 3)
    assert found.cells["a"].reasons == {"no-clip": 1}


def test_skipped_rows_are_no_gap() -> None:
    rows = [row("a", "i0", 0.9), row("a", "i1", None, status="skipped", reason="no-timing")]
    assert column(rows, ["a"], ["i0", "i1"]).cells["a"].num_expected == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [("device", ["x", "y"]), ("env", ["x", "y"]), ("params", ["x", "y"]), ("metric_version", ["1", "2"])],
)
def test_mixed_rows_are_marked(name: str, values: list[str]) -> None:
    rows = [row("a", "i0", 0.9, **{name: values[0]}), row("a", "i1", 0.9, **{name: values[1]})]
    assert any("mixed" in note for note in column(rows, ["a"], ["i0", "i1"]).notes)


def test_scores_from_other_than_released_weights_are_marked() -> None:
    rows = [
        row("a", "i0", 0.9, weights_kind="unverified", weights={"dino": "1"}),
        row("b", "i0", 0.9, weights_kind="released", weights={"dino": "2"}),
    ]
    notes = " ".join(column(rows, ["a", "b"], ["i0"]).notes)
    assert "unverified" in notes
    assert "mixed" in notes


def test_an_interval_stays_inside_the_bounds_of_its_output() -> None:
    rows = [row("a", f"i{i}", value) for i, value in enumerate([1.0, 0.999, 0.9])]
    cell = column(rows, ["a"], ["i0", "i1", "i2"]).cells["a"]
    assert cell.interval.high == 1.0
