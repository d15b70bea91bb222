"""Clips whose files the set hosts itself (TalkVid-Bench): taken from a copy of its folder, here or on a server."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import av
import av.error

from talkbench.data.downloader import FetchFailed
from talkbench.data.manifest import HostedFiles
from talkbench.errors import PrerequisiteError
from talkbench.media import probe
from talkbench.progress import Silent
from talkbench.weights.download import Download, NotThere

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a disk that is full, or broken, answers."""


@dataclass(frozen=True)
class Host:
    """Where the files are.

    Attributes:
        at: A folder, or an https address, below which the paths of the metadata hold. Name a revision in the address:
            https://huggingface.co/datasets/FreedomIntelligence/TalkVid/resolve/REVISION/FOLDER.
    """

    at: str

    def require(self) -> None:
        """Check that the folder is there; a server is asked when the first file is.

        Raises:
            PrerequisiteError: If it is not.
        """
        if not self._is_server and not Path(self.at).is_dir():
            raise PrerequisiteError(
                f"no folder {self.at}: give --host the folder with the set's files, or its https address."
            )

    @property
    def _is_server(self) -> bool:
        return self.at.startswith("https://")

    def fetch(self, files: HostedFiles, work: Path) -> Path:
        """Return one file with the picture and the sound of a clip, made in a folder of its own.

        A server that asks for patience (HTTP 429) is asked again later; what has arrived is kept.

        Raises:
            FetchFailed: `gone` if a file is not there, `no-audio` without sound, `failed` if it is no media.
            PrerequisiteError: If the server cannot be reached, or the disk is full.
            TalkbenchError: If the server refuses.
        """
        work.mkdir(parents=True, exist_ok=True)
        picture = self._file(files.video, work / "hosted-video")
        sound = picture if files.audio is None else self._file(files.audio, work / "hosted-audio")
        target = work / "piece.mkv"
        try:
            _mux(picture, sound, target)
        except (av.error.FFmpegError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise PrerequisiteError(
                    f"cannot write {target}: {probe.plain(error)}; make room and run the same command again."
                ) from error
            raise FetchFailed("failed", f"{files.video}: {probe.plain(error)}", final=True) from error
        return target

    def _file(self, name: str, stem: Path) -> Path:
        if not self._is_server:
            path = Path(self.at) / name
            if not path.is_file():
                raise FetchFailed("gone", f"{path} is not there", final=True)
            return path
        path = stem.with_name(stem.name + os.path.splitext(name)[1])  # noqa: PTH122 - the name is a path on a server
        part = path.with_name(f"{path.name}.part")
        try:
            Download(f"{self.at.rstrip('/')}/{quote(name)}", part, Silent()).run()
        except NotThere as error:
            raise FetchFailed("gone", str(error), final=True) from error
        part.replace(path)
        return path


def _mux(picture: Path, sound: Path, target: Path) -> None:
    """Copy the packets of a picture and of a sound into one file; nothing is encoded again."""
    with ExitStack() as stack:
        seen = stack.enter_context(av.open(str(picture)))
        heard = seen if sound == picture else stack.enter_context(av.open(str(sound)))
        if not heard.streams.audio:
            raise FetchFailed("no-audio", f"{sound.name} has no sound", final=True)
        container = stack.enter_context(av.open(str(target), "w", format="matroska"))
        given = [(seen, seen.streams.video[0]), (heard, heard.streams.audio[0])]
        written = [container.add_stream_from_template(stream) for _, stream in given]
        for (source, stream), out in zip(given, written, strict=True):
            if source is seen and stream.type == "audio":
                source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = out
                    container.mux(packet)
