"""`python -m model.infer` as a user runs it: files and pipes in, playable video with sound out, in step."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from model import infer as program
from talkbench.errors import TalkbenchError
from tests.support import ROOT

RATE_HZ = 16_000
CLICKS_SECONDS = (0.5, 1.3)


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("infer") / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)).save(path)
    return path


def clicks(seconds: float) -> np.ndarray:
    """Return sound with sharp beginnings at known times."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros(time.size)
    for click in CLICKS_SECONDS:
        sound += np.where(time >= click, 0.5 * np.exp(-40 * (time - click).clip(0)) * np.sin(3000 * time), 0)
    return sound


def wav(path: Path, sound: np.ndarray, rate_hz: int = RATE_HZ, channels: int = 1) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat((sound * 32767).astype("<i2"), channels).tobytes())
    return path


def infer(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "model.infer", "--recipe", "tiny", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, timeout=300, check=False)


def onsets(path: Path) -> list[float]:
    """Return when the clicks begin on the video's clock."""
    with av.open(str(path)) as container:
        origin = next(container.decode(video=0)).time
    blocks, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            blocks.append(frame.to_ndarray().reshape(-1))
            times.append(frame.time)
    sound = np.abs(np.concatenate(blocks))
    loud = np.flatnonzero(sound > 0.1) / RATE_HZ + times[0] - origin
    return [float(loud[0]), float(loud[loud > 1.0][0])]


def video_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [Fraction(frame.pts) * frame.time_base for frame in container.decode(video=0)]


def test_a_file_gives_every_frame_and_sound_in_step(face: Path, tmp_path: Path) -> None:
    sound, out = wav(tmp_path / "speech.wav", clicks(1.5)), tmp_path / "talk.mp4"
    done = infer("--image", face, "--audio", sound, "--out", out, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert video_times(out) == [Fraction(number, 25) for number in range(38)]
    assert onsets(out) == pytest.approx(CLICKS_SECONDS, abs=0.01)
    facts = json.loads(done.stderr.splitlines()[-1])
    assert facts["frames"] == 38
    assert facts["weights"] == "mini-domain tiny"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.wav", "talk.mp4"]


def test_a_pipe_of_samples_gives_a_transport_stream_in_step(face: Path, tmp_path: Path) -> None:
    samples = (clicks(1.5) * 32767).astype("<i2").tobytes()
    done = infer("--image", face, "--audio", "-", "--out", "-", stdin=samples)
    assert done.returncode == 0, done.stderr.decode()
    (tmp_path / "talk.ts").write_bytes(done.stdout)
    times = video_times(tmp_path / "talk.ts")
    assert [float(time - times[0]) for time in times] == pytest.approx([number / 25 for number in range(38)], abs=1e-4)
    assert onsets(tmp_path / "talk.ts") == pytest.approx(CLICKS_SECONDS, abs=0.01)


def test_the_first_chunk_is_written_before_the_sound_has_ended(face: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "model.infer",
        "--recipe",
        "tiny",
        "--image",
        str(face),
        "--audio",
        "-",
        "--out",
        "-",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(bytes(2 * 2 * 17_920))
        process.stdin.flush()
        assert process.stdout.read(188)[:1] == b"G"  # a transport packet, while stdin is still open
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (48_000, 2)])
def test_sound_of_another_rate_or_stereo_is_taken_as_it_is(
    rate_hz: int, channels: int, face: Path, tmp_path: Path
) -> None:
    sound = wav(tmp_path / "speech.wav", np.zeros(rate_hz // 2), rate_hz, channels)
    program.infer(recipe_name="tiny", image=face, audio=str(sound), out=str(tmp_path / "talk.mp4"))
    assert len(video_times(tmp_path / "talk.mp4")) == 13


def test_mistakes_are_named_with_what_to_do(face: Path, tmp_path: Path) -> None:
    empty = wav(tmp_path / "empty.wav", np.zeros(0))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    cases: list[tuple[Path, Path, dict[str, str], str]] = [
        (face, empty, {}, "the sound is empty"),
        (broken, empty, {}, "cannot be read as a picture"),
        (face, broken, {}, "sound track"),
        (face, empty, {"size": "100x60"}, "multiples of 16"),
        (face, empty, {"size": "big"}, "expected HEIGHTxWIDTH"),
        (face, empty, {"attention": "fa3"}, "it needs a CUDA device"),
        (face, empty, {"recipe_name": "huge"}, "unknown recipe"),
    ]
    for image, audio, more, message in cases:
        given: dict[str, Any] = {"recipe_name": "tiny", "image": image, "audio": str(audio), **more}
        with pytest.raises(TalkbenchError, match=message):
            program.infer(out=str(tmp_path / "a.mp4"), **given)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "empty.wav"]


def test_a_mistake_ends_the_program_with_one_message_and_no_traceback(face: Path, tmp_path: Path) -> None:
    header = wav(tmp_path / "speech.wav", np.zeros(10)).read_bytes()
    done = infer("--image", face, "--audio", "-", "--out", tmp_path / "a.mp4", stdin=header)
    text = " ".join(done.stderr.decode().split())
    assert done.returncode == 2
    assert "this is a file with a header" in text
    assert "Traceback" not in text


def test_a_killed_run_leaves_what_was_finished_playable(face: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.infer", "--recipe", "tiny", "--image", str(face), "--audio", "-",
               "--out", str(tmp_path / "talk.mp4")]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        partial = tmp_path / ".talk.partial.mp4"
        for _ in range(200):  # a face that says nothing takes few bytes
            process.stdin.write(bytes(2 * 17_920))
            process.stdin.flush()
            if partial.exists() and partial.stat().st_size >= 4_000:
                break
        else:
            pytest.fail("200 chunks of sound left no 4 kB of film")
        process.kill()
    times: list[float] = []
    with av.open(str(partial)) as container, suppress(av.error.InvalidDataError):  # the last fragment is cut off
        times.extend(frame.time for frame in container.decode(video=0))
    assert len(times) >= 28
