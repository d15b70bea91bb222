"""yt-dlp (with ffmpeg) as a program of the user's: argument lists, a time limit, and failures with a meaning.

Should we be killed, it ends with us (`talkbench.workers.orphans`): it would write into the folder of the next run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from talkbench.errors import PrerequisiteError
from talkbench.workers import orphans

MIN_HEIGHT_PX, MAX_HEIGHT_PX = 720, 1080
TIMEOUT_SECONDS = 1800.0
_TAIL_BYTES = 4000
_CONTAINER = "mkv"

_MEANINGS = (
    ("disk-full", re.compile(r"no space left", re.I)),
    ("blocked", re.compile(r"sign in to confirm|too many requests|\b429\b|\b403\b|rate.?limit", re.I)),
    ("gone", re.compile(r"video unavailable|private video|has been removed|account.*terminated|not available in your "
                        r"country|no longer available|\b404\b|\b410\b", re.I)),
    ("too-small", re.compile(r"requested format is not available", re.I)),
    ("network", re.compile(r"timed out|unable to connect|connection|name resolution|network is unreachable", re.I)),
)  # fmt: skip
FINAL = {"gone", "too-small"}
"""Reasons that trying again does not change."""


class FetchFailed(Exception):  # noqa: N818 - a property of the source, not an error of ours
    """A piece that could not be fetched.

    Args:
        reason: Short, stable slug.
        message: What the program said.
        final: Whether trying again is pointless.
    """

    def __init__(self, reason: str, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.reason, self.message, self.final = reason, message, final


@dataclass(frozen=True)
class Downloader:
    """Cuts one section out of a published video.

    Attributes:
        program: yt-dlp, by name or path.
        ffmpeg: ffmpeg, by name or path; yt-dlp cuts and joins with it.
        timeout_seconds: Per section; streams that stall for ever are known.
    """

    program: str = "yt-dlp"
    ffmpeg: str = "ffmpeg"
    timeout_seconds: float = TIMEOUT_SECONDS

    def require(self) -> None:
        """Check that both programs are there.

        Raises:
            PrerequisiteError: If one is not; says how to get it.
        """
        for name, hint in ((self.program, "pip install yt-dlp"), (self.ffmpeg, "install ffmpeg by your system")):
            if shutil.which(name) is None:
                raise PrerequisiteError(f"{name} is not on this machine, and fetching needs it: {hint}, or name it.")

    def command(self, source_key: str, start: float, end: float, work: Path) -> list[str]:
        """Return the argument list for one section."""
        size = f"[height>={MIN_HEIGHT_PX}][height<={MAX_HEIGHT_PX}]"
        return [
            self.program, "--no-config", "--no-playlist", "--no-progress", "--continue", "--retries", "10",
            "--socket-timeout", "30", "--ffmpeg-location", shutil.which(self.ffmpeg) or self.ffmpeg,
            # Sound is asked for by name: without it some clients deliver the picture alone.
            "--format", f"bestvideo{size}+bestaudio/best{size}", "--merge-output-format", _CONTAINER,
            "--download-sections", f"*{start:.3f}-{end:.3f}", "--force-keyframes-at-cuts",
            "--output", str(work / "piece.%(ext)s"), "--", f"https://www.youtube.com/watch?v={source_key[3:]}",
        ]  # fmt: skip

    def fetch(self, source_key: str, start: float, end: float, work: Path) -> Path:
        """Fetch one section into a folder that may hold the beginning of it; return the file.

        Raises:
            FetchFailed: If the source does not give it.
            PrerequisiteError: If the disk is full.
        """
        work.mkdir(parents=True, exist_ok=True)
        log = work / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - an argument list; the program is the user's choice
                self.command(source_key, start, end, work),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=orphans.environment(),
            )  # fmt: skip
            try:
                code = process.wait(self.timeout_seconds)
            except subprocess.TimeoutExpired as error:
                text = f"no end after {self.timeout_seconds:g} s: {_tail(log)}"
                raise FetchFailed("timeout", text, final=False) from error
            finally:
                # Its children too: ffmpeg outlives a killed yt-dlp.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        found = work / f"piece.{_CONTAINER}"
        if code == 0 and found.is_file():
            return found
        text = _tail(log)
        reason = next((name for name, pattern in _MEANINGS if pattern.search(text)), "failed")
        if reason == "disk-full":
            raise PrerequisiteError(f"no space left below {work}; make room and run the same command again.")
        said = text or ("it said nothing" if code else "it ended well, but left no file")
        raise FetchFailed(reason, f"{self.program} left with {code}: {said}", final=reason in FINAL)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return " ".join(file.read().decode("utf-8", errors="replace").split())[-400:]
