"""Figures 3, 4 and 5: the right frames in the right panels, reasons where there is none, files that can be opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from reports import moments, strips
from reports.cli import report
from reports.moments import Panel, Wanted
from talkbench.errors import TalkbenchError
from talkbench.media.clip import Frames
from talkbench.media.stills import Still, stills
from talkbench.mini.phones import PHONES
from talkbench.mini.suite import Performance, mini_suite
from talkbench.schema import DecodedFacts, Item, Sidecar, SystemRecord
from talkbench.store import attempts
from talkbench.store.run import Run
from talkbench.systems.known import SYSTEMS
from talkbench.systems.stopwatch import Stopwatch
from tests.support import make_clip
from tests.unit.reports.conftest import RunMaker


def frame_of(clip: Path, seconds: float) -> Frames:
    (found,) = stills(clip, [seconds])
    assert isinstance(found, Still)
    return found.frame_HWC


def same(panel: Panel, frame_HWC: Frames) -> bool:
    return panel.picture_HWC is not None and np.array_equal(panel.picture_HWC, frame_HWC)


@pytest.fixture
def run(make_run: Callable[..., RunMaker], tmp_path: Path) -> Run:
    """Systems `a` and `b` with items of 2 s and 30 s; the clip of `b` ends at 12 s; `c` has one broken clip."""
    maker = make_run()
    for n, (system, seconds) in enumerate((("a", 30), ("b", 12))):
        maker.system(system)
        for item, length, tier in (("item-1", 2, "short"), ("long-1", seconds, "long")):
            path = make_clip(tmp_path / system / f"{item}.mp4", seconds=length, seed=n, audio=False)
            facts = DecodedFacts(
                num_frames=25 * length, duration_seconds=length, variable_frame_rate=False, pixels_digest="d"
            )
            maker.clip(system, item, path, tier=tier, decoded=facts)
    maker.system("c")
    maker.broken("c", "item-1")
    return maker.run


def test_figure_3_spreads_the_same_moments_over_the_clip(run: Run, tmp_path: Path) -> None:
    grid = moments.strip(run, Wanted(item="item-1"))
    assert grid.labels == ("a", "b", "c")
    assert grid.heads == ("0.17 s", "0.5 s", "0.83 s", "1.17 s", "1.5 s", "1.83 s")
    assert [len(row) for row in grid.rows] == [6, 6, 1]
    for system, row in zip("ab", grid.rows, strict=False):
        for panel, seconds in zip(row, (0.17, 0.5, 0.83, 1.17, 1.5, 1.83), strict=True):
            assert same(panel, frame_of(tmp_path / system / "item-1.mp4", seconds))


def test_figure_4_takes_a_long_item_and_grows_until_its_end(run: Run, tmp_path: Path) -> None:
    grid = moments.long(run, Wanted())
    assert grid.title.startswith("long-1")
    assert grid.heads == ("10 s", "20 s")
    assert same(grid.rows[0][1], frame_of(tmp_path / "a" / "long-1.mp4", 20.0))


def test_a_clip_that_is_over_a_missing_clip_and_a_missing_system_are_told_apart(run: Run) -> None:
    with attempts.Attempt(run.path, "c", "long-1", "key") as attempt:
        attempt.failed("out-of-memory", "killed")
    grid = moments.long(run, Wanted(systems=("b", "c", "nobody"), item="long-1", times=(10.0, 20.0)))
    assert grid.rows[0][0].picture_HWC is not None
    reasons = [[panel.reason for panel in row] for row in grid.rows]
    assert reasons == [["", "ends at 12 s"], ["not generated: out-of-memory"], ["not in this run"]]
    assert moments.strip(run, Wanted(("a", "c"), "item-1")).rows[1] == (Panel(reason="unusable: not-a-video"),)


def test_a_file_that_went_bad_or_away_is_a_reason_in_its_row(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a" / "item-1.mp4").write_bytes(b"nothing")
    (tmp_path / "b" / "item-1.mp4").unlink()
    grid = moments.strip(run, Wanted(item="item-1", times=(0.5,)))
    assert [row[0].reason for row in grid.rows[:2]] == ["unusable: not-a-video", "the file is gone"]


def test_generated_clips_are_shown_before_they_are_scored(make_run: Callable[..., RunMaker]) -> None:
    maker = make_run()
    maker.system("ditto", "generated")
    make_clip(maker.run.path / "clips" / "ditto" / "x.mp4", audio=False)
    grid = moments.strip(maker.run, Wanted(times=(0.5,)))
    assert grid.labels == ("Ditto",)
    assert grid.rows[0][0].picture_HWC is not None


def test_a_run_without_clips_or_without_long_ones_says_what_to_do(run: Run) -> None:
    with pytest.raises(TalkbenchError, match="no clip of nobody.*talkbench generate"):
        moments.strip(run, Wanted(systems=("nobody",)))
    with pytest.raises(TalkbenchError, match=r"no clip of item|'item-7'.*Did you mean"):
        moments.strip(run, Wanted(item="item-7"))
    with pytest.raises(TalkbenchError, match="lasts 2.0 s.*--times"):
        moments.long(run, Wanted(item="item-1"))
    with pytest.raises(TalkbenchError, match="0 or more; -1"):
        moments.strip(run, Wanted(times=(-1.0,)))


def test_mouths_of_unknown_clips_need_times_and_a_box(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match=r"where the mouth of .*talkbench report figure5 .*--times .*--box"):
        moments.mouths(run, Wanted())
    with pytest.raises(TalkbenchError, match="shares of the picture"):
        moments.mouths(run, Wanted(times=(0.5,), box=(0.5, 0.5, 0.4, 0.6)))
    grid = moments.mouths(run, Wanted(item="item-1", times=(0.5,), box=(0.25, 0.5, 0.75, 1.0)))
    assert same(grid.rows[0][0], frame_of(tmp_path / "a" / "item-1.mp4", 0.5)[32:64, 20:60])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The truth of a drawn item, and the same with its sound five frames late."""
    suite = mini_suite(num_short=1, num_long=0, height=128, width=128)
    run = Run.open_or_create(tmp_path_factory.mktemp("drawn") / "run", suite)
    for name in ("recorded", "audio_shifted+5"):
        run.add_system(SystemRecord(name=name, kind="generated", path="x"))
        system = next(each for each in SYSTEMS if each.name == name)
        path = run.path / "clips" / name / f"{suite.items[0].id}.mp4"  # type: ignore[index]
        truth = system.generate(suite.items[0], path, Stopwatch())  # type: ignore[index]
        path.with_name(f"{path.stem}.clip.json").write_text(Sidecar(item=path.stem, truth=truth).to_json())
    return run


def item_of(run: Run) -> Item:
    assert run.suite.items
    return run.suite.items[0]


def test_figure_5_shows_the_mouth_at_the_middle_of_chosen_phones(drawn: Run) -> None:
    grid = moments.mouths(drawn, Wanted())
    performance = Performance(item_of(drawn))
    for head in grid.heads:
        group, symbol, seconds = head.split()[0], head.split("/")[1], float(head.split()[-2])
        heard = next(p for p in performance.phones if p.start_seconds <= seconds < p.end_seconds)
        assert heard.symbol == symbol
        opening = performance.mouth.opening[int(seconds * 25)]
        assert {"closed": opening < 0.1, "wide": opening > 0.5}.get(group, True), head
        assert {"closed": PHONES[symbol].closes_lips}.get(group, True)
    assert len(grid.heads) == len(grid.rows[0]) >= 3


def test_a_mouth_is_inside_its_crop_and_large_in_it(drawn: Run) -> None:
    """Where the mouth opens, pixels change: most of the change of the picture's face lies in the crop."""
    item = item_of(drawn)
    left, top, right, bottom = moments._mouth_box(item)
    performance = Performance(item)
    opening = performance.mouth.opening
    clip = drawn.path / "clips" / "recorded" / f"{item.id}.mp4"
    shut, wide = (frame_of(clip, (int(n) + 0.5) / 25).astype(float) for n in (opening.argmin(), opening.argmax()))
    cut = (slice(round(top * 128), round(bottom * 128)), slice(round(left * 128), round(right * 128)))
    red = (wide - shut)[..., 1]  # lips and the dark between them have little green
    y, x = np.unravel_index(int(np.abs(red).argmax()), red.shape)
    assert cut[0].start < y < cut[0].stop
    assert cut[1].start < x < cut[1].stop


def test_late_sound_shows_in_the_mouth_that_goes_with_a_phone(drawn: Run) -> None:
    item = item_of(drawn)
    grid = moments.mouths(drawn, Wanted(times=(1.0,)))
    frame = frame_of(drawn.path / "clips" / "audio_shifted+5" / f"{item.id}.mp4", 1.2)
    assert grid.rows[1][0].picture_HWC is not None
    assert same(grid.rows[1][0], moments._Crop(moments._mouth_box(item)).of(frame).picture_HWC)  # type: ignore[arg-type]


def test_a_clip_of_another_shape_is_not_cut_where_the_mouth_would_be_in_the_item(drawn: Run) -> None:
    item = item_of(drawn)
    run = Run.open_or_create(drawn.path.parent / "wide", drawn.suite)
    run.add_system(SystemRecord(name="wide", kind="generated", path="x"))
    make_clip(run.path / "clips" / "wide" / f"{item.id}.mp4", seconds=2, height=64, width=96, audio=False)
    (row,) = moments.mouths(run, Wanted(times=(1.0,))).rows
    assert row == (Panel(reason="another shape than the item's picture: give --box"),)
    (row,) = moments.mouths(run, Wanted(times=(1.0,), box=(0.0, 0.0, 0.5, 0.5))).rows
    assert row[0].picture_HWC is not None


def test_panels_hold_the_pixels_of_the_clip_and_reasons_take_a_whole_row(run: Run, tmp_path: Path) -> None:
    figure = strips.draw(moments.strip(run, Wanted(item="item-1", times=(0.0, 1.0))))
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 4
    assert np.array_equal(pictures[1], frame_of(tmp_path / "a" / "item-1.mp4", 1.0))
    (reason,) = [axes for axes in figure.axes if not axes.images]
    assert "not-a-video" in reason.texts[0].get_text()
    assert reason.get_position().width > 2 * figure.axes[0].get_position().width
    told = [text.get_text() for text in figure.texts]
    assert {"a", "b", "c", "0 s", "1 s"} <= set(told)


def test_large_frames_are_reduced_to_what_print_shows() -> None:
    frame = np.zeros((1080, 1920, 3), np.uint8)
    grid = moments.Grid("t", ("0 s",), ("a",), ((Panel(frame),),))
    picture = strips.draw(grid).axes[0].images[0].get_array()
    assert picture is not None
    assert picture.shape == (235, 417, 3)


def test_files_are_written_the_same_every_time_and_open(run: Run, tmp_path: Path) -> None:
    wanted = Wanted(item="item-1", times=(0.0, 1.0))
    first = strips.write(run, "figure3", wanted, tmp_path / "one", ["svg", "png", "pdf"])
    again = strips.write(run, "figure3", wanted, tmp_path / "two", ["svg", "png", "pdf"])
    assert [path.name for path in first] == ["figure3.svg", "figure3.png", "figure3.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_text(encoding="utf-8").count("data:image/png;base64") == 4
    with Image.open(first[1]) as picture:
        assert picture.width > 500


def test_the_command_draws_and_refuses_what_is_no_number(run: Run, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["figure4", "--run", str(run.path), "--out", str(tmp_path), *arguments])
        return done.exit_code, done.output + str(done.exception)

    assert call("--system", "b,a", "--format", "png", "--times", "1, 2")[0] == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["figure4.png"]
    code, told = call("--times", "soon")
    assert code != 0
    assert "--times 'soon'" in told
    code, told = call("--run", str(run.path))
    assert "give --run once" in told
