"""One file over HTTP into a ``.part`` file that any interruption leaves usable.

The server is asked to go on where the part ends, on the condition (`If-Range`) that the file there is still the one
the part was begun with; its validator and address lie beside the part. Proxies of the environment are honoured
(`urllib`).
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import math
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path

from talkbench import __version__, atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.progress import Progress
from talkbench.weights.read import BadWeights

_log = logging.getLogger(__name__)

Sleep = Callable[[float], None]

MAX_FRUITLESS_TRIES = 5
"""Tries in a row that bring nothing new; a server that delivers, however haltingly, is never given up."""

TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 1 << 20

_BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError, urllib.error.URLError)
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_ABSENT = {404, 410}
_RANGE_NOT_SATISFIABLE = 416


class NotThere(TalkbenchError):  # noqa: N818 - a server's answer
    """The server has no file at an address."""


class _Interrupted(Exception):  # noqa: N818 - the network's fault, not ours
    """A try that may succeed when repeated; the message is half a sentence."""


@dataclass(frozen=True)
class _Origin:
    """What a part was begun with: address, the server's validator (may be empty), size of the whole file."""

    url: str
    validator: str
    num_bytes: int | None


class Download:
    """A file on its way.

    Args:
        url: Where it is.
        part: Where what has arrived is kept; created with its folder.
        progress: One step per megabyte.
        sleep: Waits some seconds between tries.
    """

    def __init__(self, url: str, part: Path, progress: Progress, sleep: Sleep = time.sleep) -> None:
        self._url, self._part, self._progress, self._sleep = url, part, progress, sleep
        self._origin_file = part.with_name(f"{part.name}.json")
        self._steps: int | None = None

    def run(self) -> None:
        """Fetch until `part` is the whole file.

        Raises:
            NotThere: If the server has no such file.
            PrerequisiteError: If the disk is full or the server cannot be reached.
            TalkbenchError: If the server refuses or answers with a web page.
        """
        self._part.parent.mkdir(parents=True, exist_ok=True)
        best, fruitless = self._have(), 0
        try:
            while True:
                try:
                    self._try_once()
                except _Interrupted as error:
                    fruitless = 0 if self._have() > best else fruitless + 1
                    best = max(best, self._have())
                    if fruitless >= MAX_FRUITLESS_TRIES:
                        raise PrerequisiteError(
                            f"cannot fetch {self._url}: {error}; {MAX_FRUITLESS_TRIES} tries in a row brought nothing. "
                            f"{self._have()} bytes are kept: run the same command again to go on."
                        ) from error
                    self._sleep(float(2**fruitless))
                else:
                    self._origin_file.unlink(missing_ok=True)
                    return
        finally:
            if self._steps is not None:
                self._progress.finish()

    def _try_once(self) -> None:
        have, origin = self._resumable()
        if have and have == origin.num_bytes:
            return
        headers = {"User-Agent": f"talkbench/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if origin.validator:
                headers["If-Range"] = origin.validator
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - the catalog admits http(s) only
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                self._receive(response, have, origin)
        except urllib.error.HTTPError as error:
            with error:
                self._explain(error, have)
        except _BROKEN as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise PrerequisiteError(f"{self._url}: the server's certificate is not valid: {reason}.") from error
            raise _Interrupted(str(reason) or type(reason).__name__) from error

    def _receive(self, response: http.client.HTTPResponse, have: int, origin: _Origin) -> None:
        if self._url.startswith("https://") and not response.geturl().startswith("https://"):
            raise TalkbenchError(f"{self._url} leads to {response.geturl()}, which anybody on the way could alter.")
        if response.headers.get_content_type() == "text/html":
            raise BadWeights(f"{self._url} was answered with a web page, not a file: look at it in a browser.")
        if have and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response.headers)
            if start != have or (origin.num_bytes is not None and total != origin.num_bytes):
                self._part.unlink()
                raise _Interrupted("the file on the server is not the one the part was begun with")
        else:
            length = response.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdigit() else None
            origin = _Origin(self._url, _validator(response.headers), total)
            self._part.unlink(missing_ok=True)
            atomic.write_text(self._origin_file, json.dumps(asdict(origin)))
        if total is not None:
            self._require_space(total - have)
        self._start(have, total)
        self._append(response)
        if total is not None and self._have() != total:
            raise _Interrupted(f"the connection ended at {self._have()} of {total} bytes")
        self._step(math.ceil(self._have() / BLOCK_BYTES))

    def _append(self, response: http.client.HTTPResponse) -> None:
        with self._part.open("ab") as file:
            while block := response.read(BLOCK_BYTES):
                try:
                    file.write(block)
                    file.flush()
                except OSError as error:
                    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                        raise self._full("") from error
                    raise
                self._step(file.tell() // BLOCK_BYTES)
            os.fsync(file.fileno())

    def _explain(self, error: urllib.error.HTTPError, have: int) -> None:
        """Turn an error status into what it means; return if the part turns out to be the whole file."""
        if error.code == _RANGE_NOT_SATISFIABLE and have:
            if _content_range(error.headers)[1] == have:
                return
            self._part.unlink()
            raise _Interrupted("the part was longer than the file") from error
        if error.code in _TRY_AGAIN:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        if error.code in _ABSENT:
            raise NotThere(f"{self._url} is not there ({error.code} {error.reason}): has it moved?") from error
        raise TalkbenchError(f"{self._url} is refused by the server ({error.code} {error.reason}).") from error

    def _resumable(self) -> tuple[int, _Origin]:
        """Return how much of the file is here and where it came from; a part of unknown origin is dropped."""
        nothing = _Origin(self._url, "", None)
        if not (have := self._have()):
            return 0, nothing
        try:
            origin = _Origin(**json.loads(self._origin_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            _log.warning("%s is begun again: where it came from is not noted (%s)", self._part, error)
            origin = None
        if origin is not None and origin.url == self._url:
            return have, origin
        self._part.unlink()
        return 0, nothing

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _require_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if free < num_bytes:
            raise self._full(f" {num_bytes / 1e6:.0f} MB are still to come, {free / 1e6:.0f} MB are free.")

    def _full(self, numbers: str) -> PrerequisiteError:
        return PrerequisiteError(
            f"no space left for {self._part.name} in {self._part.parent}.{numbers} What has arrived is kept: make room "
            "(or choose another folder with --weights-dir) and run the same command again."
        )

    def _start(self, have: int, total: int | None) -> None:
        if self._steps is None:
            self._steps = have // BLOCK_BYTES
            self._progress.start("fetch", math.ceil(total / BLOCK_BYTES) - self._steps if total else 0)

    def _step(self, reached: int) -> None:
        """Report megabytes up to `reached`; those fetched a second time count once."""
        steps = self._steps or 0
        for _ in range(steps, reached):
            self._progress.step(self._part.stem)
        self._steps = max(steps, reached)


def _validator(headers: Message) -> str:
    """Return what `If-Range` may carry: a strong entity tag, else the date of the file, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Return first byte and total size of a `Content-Range` (``bytes 5-9/10``, ``bytes */10``), None if not stated."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    start, total = found.groups()
    return int(start) if start else None, int(total) if total != "*" else None
