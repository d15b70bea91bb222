"""Checks on a clip before it counts as made: what a system writes is looked at, since exit codes prove nothing.

A refused clip has one of the faults of `talkbench.workers.faults`; its failure message ends with that word, in
brackets. What is odd but may be meant (a blank frame, a few repeated ones, a sound that comes a little late) is
measured and kept, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from talkbench.errors import Undecodable, Unscorable
from talkbench.media import probe
from talkbench.workers.host import WorkerFailedError
from talkbench.workers.picture_check import Picture, SizeChangesError, Watcher, look
from talkbench.workers.sound_check import SoundComparison, compare_sound, is_silent

BLANK_SHARE = 0.1
TAIL_SECONDS = 1.0
SHIFT_SECONDS = 0.1
"""Coding delays of AAC are up to 0.064 s where a player does not undo them."""
LEVEL_DB = 3.0
SOUND_LIKENESS = 0.8
"""Correlation of two loudness curves under which they are not of one sound, so that shift and level mean nothing."""
REFERENCE_LIKENESS = 0.4
"""Between what other pictures reach and what any frame of a clip does: see `picture_check.likeness`."""
DURATION_SECONDS = 0.25
"""By how much a file's stated duration may exceed its frames: AAC pads a sound by up to 0.13 s at 16 kHz."""
WATCHED_FRAMES = 16


class RefusedClipError(WorkerFailedError):
    """A clip that does not count.

    Args:
        fault: Key of `FAULTS`.
        text: What was found and what was expected.
    """

    def __init__(self, fault: str, text: str) -> None:
        super().__init__("bad-output", f"{text} [{fault}]")
        self.fault = fault


@dataclass(frozen=True)
class Accepted:
    """What was found.

    Attributes:
        size: Width and height in pixels.
        picture: What its frames show.
        container_seconds: Duration that the file states, None if it does not.
        sound: How its sound compares with that of the job; None if not compared, or if both are silent.
    """

    size: tuple[int, int]
    picture: Picture
    container_seconds: float | None = None
    sound: SoundComparison | None = None

    def facts(self) -> dict[str, Any]:
        """Return all that was found as plain data, to be kept beside the clip."""
        return asdict(self) | {"size": f"{self.size[0]}x{self.size[1]}"}


def accept(
    path: Path,
    *,
    audio_seconds: float,
    frame_rate: Fraction,
    tolerance_frames: int,
    num_frames_told: int,
    audio: Path | None = None,
    sizes: tuple[tuple[int, int], ...] = (),
    reference: Path | None = None,
    shows_reference: bool = False,
    watcher: Watcher | None = None,
) -> Accepted:
    """Decode a clip once and compare it with its job.

    Args:
        path: The clip.
        audio_seconds: Length of the sound that it was made for.
        frame_rate: Rate that the system states.
        tolerance_frames: How many frames it may be longer or shorter than the sound.
        num_frames_told: Frames in its timing events; 0 if there are none.
        audio: The sound that it was made for; without it, only the presence of a sound track is checked.
        sizes: Widths and heights that the system makes; none for any.
        reference: The picture that it was made from; without it, likeness is not measured.
        shows_reference: Whether the system's first frame is the reference picture, so that another one is a fault.
        watcher: Is shown 16 frames, evenly spread over the length that the clip should have.

    Raises:
        WorkerFailedError: ``bad-output``, with what was found and what was expected.
    """
    if not path.is_file():
        raise RefusedClipError("no-file", "it said done, but there is no file")
    expected = round(audio_seconds * frame_rate)
    watched = {round(number) for number in np.linspace(0, max(0, expected - 1), WATCHED_FRAMES)}
    try:
        facts = probe.probe(path)
        picture = look(path, float(1 / frame_rate), reference=reference, watcher=watcher, watched=watched)
        container_seconds = _container_seconds(path)
    except Undecodable as error:
        raise RefusedClipError(error.reason, error.message) from error
    except SizeChangesError as error:
        raise RefusedClipError("wrong-size", str(error)) from error
    if Fraction(facts.video.frame_rate) != frame_rate:
        raise RefusedClipError("wrong-rate", f"{facts.video.frame_rate} frames a second, {frame_rate} expected")
    if facts.audio is None:
        raise RefusedClipError("no-sound", "the clip has no sound track")
    size = (facts.video.width, facts.video.height)
    if sizes and size not in sizes:
        known = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise RefusedClipError("wrong-size", f"{size[0]}x{size[1]}, {known} expected")
    _check_length(picture.num_frames, expected, audio_seconds, tolerance_frames, num_frames_told)
    _check_duration(picture, container_seconds, frame_rate, tolerance_frames)
    _check_picture(picture, frame_rate)
    if shows_reference and picture.likeness is not None and picture.likeness < REFERENCE_LIKENESS:
        raise RefusedClipError(
            "other-picture",
            f"the first frame's likeness to the reference picture is {picture.likeness:.2f}, "
            f"{REFERENCE_LIKENESS:g} or more expected",
        )
    compared = None if audio is None else _check_sound(path, audio, facts.first_frame_seconds)
    return Accepted(size, picture, container_seconds, compared)


def check_native(details: Mapping[str, Any], *, lead_trim_frames: int, makes_sound: bool, frame_rate: Fraction) -> None:
    """Compare what a worker found in the system's own file, and cut from it, with what its adapter declares.

    Args:
        details: Of the clip, from the worker. `clip.lead_frames_cut` is what it cut from the start. `native.sound` says
            whether the system's own file had sound, `native.sound_late_seconds` how late the benchmark's came there,
            `native.sound_likeness` how sure that is. A worker that hands on the system's own file need not say any.
        lead_trim_frames: Frames that the system puts before the sound.
        makes_sound: Whether its own file has sound.
        frame_rate: Of the system.

    Raises:
        RefusedClipError: ``wrong-lead`` or ``no-sound``.
    """
    cut = details.get("clip", {}).get("lead_frames_cut", 0)
    if cut != lead_trim_frames:
        raise RefusedClipError("wrong-lead", f"{cut} frames were cut from its start, {lead_trim_frames} are declared")
    native = details.get("native", {})
    if makes_sound and native.get("sound", True) is False:
        raise RefusedClipError("no-sound", "the system's own file has no sound track")
    late, alike = native.get("sound_late_seconds"), native.get("sound_likeness")
    declared = float(lead_trim_frames / frame_rate)
    if late is None or alike is None or alike < SOUND_LIKENESS:
        return
    if abs(late - declared) > SHIFT_SECONDS:
        raise RefusedClipError(
            "wrong-lead",
            f"the sound comes {late:.2f} s late in the system's own file, {declared:.2f} s "
            f"({lead_trim_frames} frames) declared",
        )


def _check_length(
    num_frames: int, expected: int, audio_seconds: float, tolerance_frames: int, num_frames_told: int
) -> None:
    if abs(num_frames - expected) > tolerance_frames:
        raise RefusedClipError(
            "wrong-length",
            f"{num_frames} frames for {audio_seconds:.2f} s of sound, {expected} expected "
            f"(give or take {tolerance_frames})",
        )
    if num_frames_told not in {0, num_frames}:
        raise RefusedClipError(
            "wrong-count", f"the timing events tell of {num_frames_told} frames, it has {num_frames}"
        )


def _check_duration(
    picture: Picture, container_seconds: float | None, frame_rate: Fraction, tolerance_frames: int
) -> None:
    playing, frame = float(picture.num_frames / frame_rate), float(1 / frame_rate)
    if abs(picture.seconds - playing) > 1.5 * frame:
        raise RefusedClipError(
            "wrong-duration",
            f"{picture.num_frames} frames are spread over {picture.seconds:.2f} s, {playing:.2f} s expected",
        )
    allowed = DURATION_SECONDS + tolerance_frames * frame
    if container_seconds is not None and abs(container_seconds - playing) > allowed:
        raise RefusedClipError(
            "wrong-duration", f"the file states {container_seconds:.2f} s, its frames play {playing:.2f} s"
        )


def _check_picture(picture: Picture, frame_rate: Fraction) -> None:
    most = BLANK_SHARE * picture.num_frames
    if picture.num_black > most:
        raise RefusedClipError("black", f"{picture.num_black} of {picture.num_frames} frames are black")
    if picture.num_blank > most:
        raise RefusedClipError("blank", f"{picture.num_blank} of {picture.num_frames} frames are of one colour")
    if picture.num_frames > 1 and picture.num_repeated == picture.num_frames - 1:
        raise RefusedClipError("frozen", f"all {picture.num_frames} frames are the same")
    if picture.repeated_tail > TAIL_SECONDS * frame_rate:
        raise RefusedClipError("repeated-tail", f"the last {picture.repeated_tail} frames repeat the one before them")


def _check_sound(path: Path, audio: Path, first_frame_seconds: float) -> SoundComparison | None:
    try:
        compared = compare_sound(path, audio, first_frame_seconds)
    except Unscorable as error:
        raise RefusedClipError("corrupt", f"its sound cannot be decoded: {error.message}") from error
    if compared is None:
        if not is_silent(audio):
            raise RefusedClipError("no-sound", "the sound track is silent, the benchmark's sound is not")
        return None
    if compared.likeness < SOUND_LIKENESS:
        return compared
    if abs(compared.late_seconds) > SHIFT_SECONDS:
        raise RefusedClipError("sound-shifted", f"its sound comes {compared.late_seconds:+.2f} s late")
    if abs(compared.gain_db) > LEVEL_DB:
        raise RefusedClipError("re-levelled", f"its sound is {compared.gain_db:+.1f} dB louder than the benchmark's")
    return compared


def _container_seconds(path: Path) -> float | None:
    with probe.open_clip(path) as container:
        return None if container.duration is None else container.duration / 1e6
