"""A small build folder with a fake downloader, for tests of what comes after the selection."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from talkbench.data.downloader import Downloader
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.select import select
from talkbench.media.encode import Encoding, write_clip
from tests.unit.data import metadata

DAY = "2026-01-05"
SHORT_ONLY = {"short": 3, "long": 0}
WITH_LONG = {"short": 2, "long": 1}


def talk(seconds: float, rate_hz: int = 48_000) -> np.ndarray:
    """Return a swelling tone with a short pause every two seconds."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.2 * np.sin(2 * np.pi * 220 * t) * (t % 2 < 1.6)).astype(np.float32)


def make_template(
    path: Path, seconds: int, *, height: int = 720, rate: int = 1, audio: bool = True, audio_rate_hz: int = 48_000
) -> Path:
    """Write a clip of a textured ground that changes a little from frame to frame."""
    ground = np.random.default_rng(3).integers(60, 180, (height // 72, height // 9 * 16 // 72, 3), np.uint8)
    whole = np.kron(ground, np.ones((72, 72, 1), np.uint8))
    frames = (whole + np.uint8(n % 5 // 4) for n in range(seconds * rate))
    sound = talk(seconds, audio_rate_hz) if audio else None
    write_clip(path, frames, frame_rate=Fraction(rate), audio_N=sound, audio_rate_hz=audio_rate_hz,
               encoding=Encoding(crf=30, preset="ultrafast"))  # fmt: skip
    return path


def make_downloader(folder: Path, *, long: bool = False) -> Downloader:
    """Return the fake, with its templates, in a folder of its own; with one for the long tier if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("fake_ytdlp.py").read_text(encoding="utf-8")
    program = folder / "yt-dlp"
    program.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
    program.chmod(0o755)
    make_template(folder / "16.mkv", 16)
    if long:
        make_template(folder / "421.mkv", 421, audio_rate_hz=16_000)
    make_template(folder / "silent.mkv", 16, audio=False)
    make_template(folder / "small.mkv", 16, height=360)
    make_template(folder / "short.mkv", 1)
    return Downloader(str(program), sys.executable, 60.0)


def make_selection(root: Path, sizes: dict[str, int]) -> Build:
    """Return a build folder with an index and a small selection."""
    build = Build(root / "build")
    records = list(metadata.talkvid(1500, clips_per_source=24))
    for record in records:  # spans below ten minutes, so that the long sample is no xl
        record["dover_scores"] = 8.0
    index(build, talkvid=[metadata.write_array(root / "meta.json", records)])
    select(build, sizes=sizes)
    return build
