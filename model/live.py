"""Video written while it is made: frames and sound go out chunk by chunk, and what is written can be played.

Frames are taken from the device and encoded on a thread of their own, beside the next chunk's computation.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVarTuple

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer

from talkbench.media.tracks import PictureTrack, SoundTrack

Frames = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]
Arguments = TypeVarTuple("Arguments")

_MAX_WAITING = 2


class LiveWriter:
    """H.264 without B-frames and AAC, to a file or a pipe.

    A file is a fragmented mp4 beside the target while it grows (`.NAME.partial.mp4`, playable if the program dies) and
    becomes an ordinary mp4 under its name at the end. A pipe carries an MPEG transport stream: players take it up
    anywhere.

    Args:
        target: File, or None for standard output.
        height: Pixels, even.
        width: Pixels, even.
        frame_rate: Frames per second.
        audio_rate_hz: Samples per second.
        fragment_frames: Frames between points where a player can start.
    """

    def __init__(
        self,
        target: Path | None,
        *,
        height: int,
        width: int,
        frame_rate: Fraction,
        audio_rate_hz: int,
        fragment_frames: int,
    ) -> None:
        self._target = target
        self.partial = None if target is None else target.with_name(f".{target.stem}.partial.mp4")
        self._container = _open(self.partial)
        tune = {"tune": "zerolatency"} if target is None else {}
        options = {"crf": "18", "preset": "veryfast", "bf": "0", "g": str(fragment_frames), **tune}
        self._picture = PictureTrack(
            self._container, width=width, height=height, frame_rate=frame_rate, options=options
        )
        self._sound = SoundTrack(self._container, audio_rate_hz)

    def write(self, frames_FHWC: Frames, samples_N: Samples) -> None:
        """Append frames and the sound that belongs to them; what is louder than 1 is cut off."""
        for frame_HWC in frames_FHWC:
            self._picture.write(frame_HWC)
        self._sound.write(np.clip(samples_N, -1, 1))

    def close(self) -> None:
        """Finish: what is written becomes the target."""
        self._picture.finish()
        self._sound.finish()
        self._container.close()
        if self._target is not None and self.partial is not None:
            _settle(self.partial, self._target)

    def abandon(self) -> None:
        """Close without finishing; the partial file stays, playable as far as it goes."""
        self._container.close()


class Background(Generic[*Arguments]):
    """Calls a function on its own thread, in order; an error stops the caller at its next call.

    Args:
        function: What to call.
    """

    def __init__(self, function: Callable[[*Arguments], None]) -> None:
        self._function = function
        self._queue: queue.Queue[tuple[*Arguments] | None] = queue.Queue(_MAX_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __call__(self, *arguments: *Arguments) -> None:
        """Have the function called; waits if two calls are waiting already."""
        self._raise()
        self._queue.put(arguments)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _run(self) -> None:
        while (arguments := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._function(*arguments)
                except BaseException as error:  # noqa: BLE001 - handed to the caller
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _open(partial: Path | None) -> OutputContainer:
    if partial is None:
        return av.open(sys.stdout.buffer, "w", format="mpegts", options={"flush_packets": "1"})
    partial.parent.mkdir(parents=True, exist_ok=True)
    flags = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
    return av.open(str(partial), "w", format="mp4", options=flags)


def _settle(partial: Path, target: Path) -> None:
    """Copy the packets into an ordinary mp4, index first, and drop the partial file."""
    whole = target.with_name(f".{target.stem}.whole.mp4")
    with av.open(str(partial)) as source, av.open(str(whole), "w", options={"movflags": "+faststart"}) as copy:
        streams = {stream: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                copy.mux(packet)
    whole.replace(target)
    partial.unlink()
