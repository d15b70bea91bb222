"""One layout for the clips of all systems: the same codec, the same quality, the benchmark's own sound.

Encoders differ from system to system, and scores of quality and of lip movement see that. A clip in this layout has one
more generation of H.264 at a quality at which it does not show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from talkbench.errors import Undecodable
from talkbench.media import audio, probe
from talkbench.media.clip import Samples
from talkbench.media.decode import stored_frames
from talkbench.media.tracks import REPEATABLE, SoundTrack

AUDIO_RATE_HZ = 16_000
_LIMITED, _FULL = 1, 2
LAYOUT = {"codec": "H.264 High", "crf": 10, "preset": "veryfast", "gop_frames": 25, "audio": "AAC, 128 kbit/s, 16 kHz"}
"""As it is noted beside a clip. Source: the layout of normalised clips in the benchmark's notes on baselines."""


def normalise(source: Path, path: Path, sound: Path, frame_rate: Fraction) -> int:
    """Encode a clip again, with another sound; return its number of frames.

    Frames keep their stored colours (no conversion to RGB in between), their order and their number; frame `n` is shown
    at `n / frame_rate`. The sound begins with the first frame and ends with the last one. H.264 High in yuv420p with a
    key frame every 25 frames, no picture refers beyond it; odd sizes are stored without chroma subsampling.

    Args:
        source: The clip as its system wrote it.
        path: Target; appears when it is whole.
        sound: What the clip was made for.
        frame_rate: Frames per second.

    Raises:
        Undecodable: If the clip cannot be decoded to its end.
        Unscorable: If the sound cannot be.
    """
    partial = path.with_name(f".{path.stem[:60]}.{os.getpid()}.partial.mp4")
    try:
        with (
            probe.open_clip(source) as given,
            av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            track = _picture_track(container, probe.video_stream(given), frame_rate)
            num_frames = _encode(
                stored_frames(given, source), track, container, audio.blocks(sound, AUDIO_RATE_HZ), frame_rate
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_frames


def _encode(
    frames: Iterator[VideoFrame],
    picture: VideoStream,
    container: OutputContainer,
    blocks: Iterator[Samples],
    frame_rate: Fraction,
) -> int:
    sound = SoundTrack(container, AUDIO_RATE_HZ, 128_000)
    waiting_N = np.zeros(0, np.float32)
    num_frames = 0
    for frame in frames:
        full = _FULL if frame.format.name.startswith("yuvj") else None
        plain = frame.reformat(
            format=picture.pix_fmt, src_color_range=full, dst_color_range=None if full is None else _LIMITED
        )
        plain.pict_type = 0
        plain.pts, plain.time_base = num_frames, 1 / frame_rate
        container.mux(picture.encode(plain))
        num_frames += 1
        missing = round(num_frames / frame_rate * AUDIO_RATE_HZ) - sound.num_samples
        while waiting_N.size < missing and (block_N := next(blocks, None)) is not None:
            waiting_N = np.concatenate((waiting_N, block_N))
        sound.write(waiting_N[:missing])
        waiting_N = waiting_N[missing:]
    if not num_frames:
        raise Undecodable("no-frames", "the video track has no frames")
    container.mux(picture.encode(None))
    sound.finish()
    return num_frames


def _picture_track(container: OutputContainer, picture: VideoStream, frame_rate: Fraction) -> VideoStream:
    params = f"{REPEATABLE}:keyint=25:min-keyint=25:scenecut=0:open-gop=0"
    options = {"crf": str(LAYOUT["crf"]), "preset": str(LAYOUT["preset"]), "threads": "1", "x264-params": params}
    stream = container.add_stream("libx264", rate=frame_rate, options=options)
    stream.width, stream.height = picture.width, picture.height
    odd = picture.width % 2 or picture.height % 2
    stream.pix_fmt = "yuv444p" if odd else "yuv420p"
    stream.codec_context.profile = "High 4:4:4 Predictive" if odd else "High"
    ours, theirs = stream.codec_context, picture.codec_context
    full = (theirs.pix_fmt or "").startswith("yuvj")
    ours.colorspace, ours.color_range = theirs.colorspace, _LIMITED if full else theirs.color_range
    ours.color_primaries, ours.color_trc = theirs.color_primaries, theirs.color_trc
    return stream
