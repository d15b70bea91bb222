"""Networks look once, and what they measured decides: flow of `data check` and `data fetch`, and real networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkbench import vetting
from talkbench.data import acceptance, placing, snapshot
from talkbench.data import fetch as fetching
from talkbench.data.folder import Build
from talkbench.data.manifest import HostedFiles, Measured, Selected, line
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.ids import sha256_file
from talkbench.media.encode import write_clip
from talkbench.mini.identity import sample_identity
from talkbench.mini.speech import sample_speech
from talkbench.mini.suite import SEED
from talkbench.mini.synth import synthesize
from talkbench.weights.store import Located
from tests.unit.data import building

GOOD = Measured(num_faces=1, face_box=(0.4, 0.2, 0.6, 0.6), face_share=0.08, window_face_box=None,
                sync_confidence=5.0, weights={})  # fmt: skip


class Downloader:
    """Delivers some bytes for every section, the same ones every time."""

    def require(self) -> None:
        """Need nothing."""

    def fetch(self, source_key: str, start: float, end: float, work: Path) -> Path:
        work.mkdir(parents=True, exist_ok=True)
        path = work / "piece.mkv"
        path.write_text(f"{source_key} {start} {end}")
        return path


class Networks:
    """Measures what a test says; counts how often it is asked."""

    plan: dict[str, Measured] = {}  # noqa: RUF012 - set by each test
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, *_: Any) -> None:
        """Load nothing."""

    def measure(self, entry: Selected, _files: Any) -> Measured:
        self.asked.append(entry.clip_id)
        return self.plan.get(entry.clip_id, GOOD)


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return building.make_selection(tmp_path_factory.mktemp("selected"), building.SHORT_ONLY).root


@pytest.fixture
def build(selected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    for rule in ("media", "by_ear", "by_eye"):
        monkeypatch.setattr(acceptance, rule, lambda *_: None)
    monkeypatch.setattr(vetting, "_Networks", Networks)
    monkeypatch.setattr(vetting.store, "locate", lambda *_, **__: Located())
    monkeypatch.setattr(Networks, "plan", {})
    monkeypatch.setattr(Networks, "asked", [])
    shutil.copytree(selected, tmp_path / "build")
    return Build(tmp_path / "build")


def fetch(build: Build, **options: Any) -> fetching.FetchReport:
    return fetching.fetch(build, Downloader(), day=building.DAY, **options)  # type: ignore[arg-type]


def first(build: Build) -> Selected:
    return next(entry for entry in snapshot.load_selection(build) if entry.slot == "tbs-0001")


def test_nothing_is_frozen_that_networks_have_not_looked_at(build: Build) -> None:
    report = fetch(build)
    assert (report.frozen, report.pending) == (False, {"unchecked": 3})
    assert not fetch(build, freeze=True).frozen, "giving up is for what cannot be had"
    found = vetting.check(build)
    assert (found.measured, found.known, found.waiting, found.verdicts) == (3, 0, 0, {"accepted": 3})
    assert fetch(build).frozen
    states = snapshot.load_snapshot(build)
    assert [state.measured for state in states] == [GOOD] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_faces": 0, "face_box": None, "face_share": None}, "measured:no-face"),
        ({"num_faces": 2, "face_box": None, "face_share": None}, "measured:several-faces"),
        ({"face_share": 0.001}, "measured:small-face"),
        ({"sync_confidence": 2.9}, "measured:low-sync"),
        ({"sync_confidence": None, "sync_problem": "no-face"}, "measured:sync-no-face"),
    ],
)
def test_what_networks_speak_against_is_replaced_from_the_reserve_and_counted(
    build: Build, changes: dict[str, Any], reason: str
) -> None:
    Networks.plan[first(build).clip_id] = GOOD.model_copy(update=changes)
    fetch(build)
    assert vetting.check(build).verdicts == {"accepted": 2, reason: 1}
    report = fetch(build)
    assert (report.frozen, report.failures, report.pending) == (False, {reason: 1}, {"unchecked": 1})
    assert vetting.check(build).measured == 1
    assert fetch(build).frozen
    out = [state for state in snapshot.load_snapshot(build) if state.status == "rejected"]
    assert [(state.clip_id, state.reason) for state in out] == [(first(build).clip_id, reason)]
    assert out[0].measured is not None, "the numbers behind a rejection are kept"


def test_long_speech_over_cuts_needs_no_sync() -> None:
    assert acceptance.by_networks(GOOD.model_copy(update={"sync_confidence": None})) is None


def test_only_the_heard_clip_comes_from_the_host_of_its_set(build: Build) -> None:
    class Host:
        def require(self) -> None:
            """Need nothing."""

        def fetch(self, files: HostedFiles, work: Path) -> Path:
            work.mkdir(parents=True)
            (work / "piece.mkv").write_text(files.video)
            return work / "piece.mkv"

    chosen = snapshot.load_selection(build)
    hosted = HostedFiles(video="age/videos/1.mp4", audio=None)
    changed = [e.model_copy(update={"hosted": hosted}) if e.slot == "tbs-0001" else e for e in chosen]
    build.selection.write_text("".join(f"{line(entry)}\n" for entry in changed))
    fetch(build, host=Host(), checks=False)
    window, reference = snapshot.pieces(build, first(build))
    assert window.read_text() == hosted.video
    assert reference.read_text().startswith("yt:"), "the set hosts five seconds, and the picture is from elsewhere"


def test_another_window_of_a_clip_is_fetched_anew_and_never_taken_for_the_one_before(build: Build) -> None:
    fetch(build, checks=False)
    build.snapshot.unlink()
    entry = first(build)
    later = [piece.model_copy(update={"start": piece.start + 1, "end": piece.end + 1}) for piece in entry.segments]
    other = entry.model_copy(update={"segments": tuple(later)})
    before, after = (line(each) for each in (entry, other))
    build.selection.write_text(build.selection.read_text().replace(before, after))
    report = fetch(build, checks=False)
    assert (report.frozen, report.coverage["short"]) == (True, [3, 3])
    window, _ = snapshot.pieces(build, other)
    states = snapshot.frozen(build, snapshot.load_selection(build))
    assert states[placing.key(other)].media_sha256 == (sha256_file(window),)
    build.selection.write_text(build.selection.read_text().replace(after, before))
    with pytest.raises(TalkbenchError, match="different builds"):
        fetch(build, checks=False)


@pytest.mark.parametrize(
    ("damage", "what"),
    [(b"\xff\xfe\n", "not UTF-8"), (b"{\n", "line 1: not JSON"), (b'{"tier": "short"}\n', "Field required")],
)
def test_a_selection_that_cannot_be_read_is_named_with_what_to_run(build: Build, damage: bytes, what: str) -> None:
    build.selection.write_bytes(damage)
    with pytest.raises(TalkbenchError, match=what):
        fetch(build)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_record_ends_at_its_line_feed_alone(build: Build, character: str) -> None:
    entries = [e.model_copy(update={"stratum": f"a{character}b"}) for e in snapshot.load_selection(build)]
    build.selection.write_text("".join(f"{line(entry)}\n" for entry in entries), encoding="utf-8")
    assert snapshot.load_selection(build) == entries


def test_a_file_is_measured_once_and_a_changed_one_again(build: Build) -> None:
    fetch(build)
    vetting.check(build)
    assert vetting.check(build).known == 3
    assert len(Networks.asked) == 3
    snapshot.pieces(build, first(build))[0].write_text("other bytes")
    assert vetting.check(build).measured == 1
    snapshot.pieces(build, first(build))[0].unlink()
    assert vetting.check(build).waiting == 1


def test_a_check_that_was_stopped_goes_on_where_it_was(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(build)
    real = Networks.measure

    def stops(self: Networks, entry: Selected, files: Any) -> Measured:
        if len(self.asked) == 2:
            raise KeyboardInterrupt
        return real(self, entry, files)

    with monkeypatch.context() as patch:
        patch.setattr(Networks, "measure", stops)
        with pytest.raises(KeyboardInterrupt):
            vetting.check(build)
    assert vetting.check(build).measured == 1


def test_the_verdict_is_repeated_without_media_from_what_was_written_down(build: Build) -> None:
    Networks.plan[first(build).clip_id] = GOOD.model_copy(update={"num_faces": 0})
    fetch(build)
    vetting.check(build)
    fetch(build)
    vetting.check(build)
    fetch(build)
    frozen = build.snapshot.read_bytes()
    build.snapshot.unlink()
    shutil.rmtree(build.media)
    assert fetch(build).frozen
    assert build.snapshot.read_bytes() == frozen


def test_measurements_of_another_form_are_refused_with_file_and_field(build: Build) -> None:
    fetch(build)
    build.checked.parent.mkdir(parents=True)
    build.checked.write_text(json.dumps({"media": "0" * 64, "clip_id": "a", "measured": {"num_faces": "one"}}) + "\n")
    with pytest.raises(TalkbenchError, match=r"measured.jsonl: measured"):
        fetch(build)


def test_missing_weights_are_named_with_the_way_to_get_them(selected: Path, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"sfd_face.pth[\s\S]*talkbench weights fetch"):
        vetting.check(Build(selected), weights_dir=tmp_path)


@pytest.mark.slow
def test_real_networks_find_the_one_face_of_a_drawn_speaker_and_measure_its_sync(tmp_path: Path) -> None:
    from talkbench.weights import store
    from tests.fitted_s3fd import drawn, write_weights

    write_weights(tmp_path / "weights", people=[SEED])
    seen = drawn(SEED, 60)
    person = sample_identity(SEED)
    sound_N = synthesize(sample_speech(SEED, 2.4, person), person, 2.4)
    write_clip(tmp_path / "a.mp4", [frame for frame, _ in seen], audio_N=sound_N)
    blank = np.full((256, 256, 3), 90, np.uint8)
    blank[::32] = 160
    write_clip(tmp_path / "b.mp4", [blank] * 60, audio_N=sound_N)
    located = store.locate(vetting.WEIGHTS, weights_dir=tmp_path / "weights", allow_unverified=True)
    networks = vetting._Networks(located.files, "cpu")
    entry = Selected.model_construct(filmed=True)
    found = networks.measure(entry, [tmp_path / "a.mp4", tmp_path / "a.mp4"])
    assert found.num_faces == 1
    assert found.face_box is not None
    left, top, right, bottom = np.array(seen[30][1]) / 256
    assert (found.face_box[0] + found.face_box[2]) / 2 == pytest.approx((left + right) / 2, abs=0.08)
    assert (found.face_box[1] + found.face_box[3]) / 2 == pytest.approx((top + bottom) / 2, abs=0.08)
    assert found.sync_confidence is not None
    assert set(found.weights) == {"s3fd", "syncnet"}
    nobody = networks.measure(entry, [tmp_path / "b.mp4", tmp_path / "b.mp4"])
    assert (nobody.num_faces, nobody.sync_confidence) == (0, None)
    assert acceptance.by_networks(nobody) == "measured:no-face"
    unfilmed = networks.measure(Selected.model_construct(filmed=False), [tmp_path / "a.mp4", tmp_path / "a.mp4"])
    assert (unfilmed.sync_confidence, unfilmed.sync_problem) == (None, None)
