"""Clips and rows for tests: seconds long, tens of pixels, made on the spot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from talkbench.media.clip import Frames, Samples
from talkbench.media.encode import Encoding, write_clip

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 16_000


def moving_square(
    num_frames: int, height: int = 64, width: int = 80, seed: int = 0, speed: float = 1.0
) -> Iterator[Frames]:
    """Yield frames of a bright square that wanders over a fixed, smoothly textured ground."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    y, x = np.mgrid[0:height, 0:width]
    ground = (80 + 30 * np.sin(x[..., None] / 9 + phase) * np.cos(y[..., None] / 7 + phase)).astype(np.uint8)
    side = max(8, height // 4)
    for number in range(num_frames):
        frame = ground.copy()
        left = int((width - side) * (0.5 + 0.5 * np.sin(speed * number / 9 + seed)))
        top = int((height - side) * (0.5 + 0.5 * np.cos(speed * number / 13)))
        frame[top : top + side, left : left + side] = (230, 200, 170)
        yield frame


def tone(seconds: float, hertz: float = 220.0, rate_hz: int = RATE_HZ) -> Samples:
    """Return a quiet sine that swells twice a second."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * hertz * t) * (0.6 + 0.4 * np.sin(4 * np.pi * t))).astype(np.float32)


def make_clip(
    path: Path,
    *,
    seconds: float = 1.2,
    height: int = 64,
    width: int = 80,
    rate: int | Fraction = 25,
    seed: int = 0,
    speed: float = 1.0,
    audio: bool = True,
    crf: int = 12,
) -> Path:
    """Write a small clip with a moving square and a tone."""
    frames = moving_square(round(seconds * rate), height, width, seed, speed)
    sound = tone(seconds) if audio else None
    write_clip(path, frames, frame_rate=Fraction(rate), audio_N=sound, encoding=Encoding(crf=crf))
    return path


def make_raw(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    source: str = "rgb24",
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    colour: tuple[int, int] | None = None,
    rotation: int = 0,
    audio: np.ndarray | None = None,
    audio_rate: int = RATE_HZ,
    layout: str = "mono",
) -> Path:
    """Write frames with a chosen codec, pixel format, timestamps, colour tags or rotation; for odd inputs.

    `colour` is (matrix, range) in H.273 numbers; `audio` is [channels, N] float32.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1 / time_base, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if colour is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colour
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=audio_rate, layout=layout) if audio is not None else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=source)
            if colour is not None:
                frame = frame.reformat(
                    format=pix_fmt, dst_colorspace=colour[0], src_color_range=2, dst_color_range=colour[1]
                )
            frame.pts = times[number] if times else number
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None and audio is not None:
            for start in range(0, audio.shape[1], 1024):
                block = np.ascontiguousarray(audio[:, start : start + 1024])
                piece = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                piece.sample_rate, piece.pts, piece.time_base = audio_rate, start, Fraction(1, audio_rate)
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
    return path


def row(system: str, item: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """Return a stored row of temporal flickering as a dictionary."""
    base = {
        "schema_version": 1, "score_key": f"key-{system}-{item}", "clip_key": f"clip-{system}-{item}", "item": item,
        "system": system, "tier": "short", "identity": item, "metric": "flicker", "metric_version": "1", "params": "p",
        "output": "vbench.temporal_flickering", "value": value, "unit": "1",
        "status": "ok" if value is not None else "unscorable", "reason": None if value is not None else "one-frame",
        "message": None, "details": {}, "windows": None, "weights": {}, "weights_kind": "none", "clip_sha256": "0" * 64,
        "pixels_digest": None, "env": "e", "device": "d", "seconds": 0.1, "reused_from": None,
        "written_at": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    return base | changes


def talkbench(
    *arguments: object, cwd: Path | None = None, check: bool | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "talkbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, check=bool(check), timeout=300)
