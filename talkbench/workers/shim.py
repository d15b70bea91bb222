"""The worker's side of the protocol, in one file that needs only Python 3.8: run beside the code of a system.

    python shim.py WORKER.py ARGUMENTS          or          python shim.py -m MODULE ARGUMENTS

Before any of the worker's code runs, stdout and stdin are put out of its reach: whatever it, its libraries and its
children print goes to stderr, which is the log. The worker then says what it is and how it makes a clip:

    from talkbench_shim import serve

    def make(job, report):                       # job.image, job.audio, job.seed, job.output, ...
        for frames in generate(job.image, job.audio):
            report.frames(len(frames))           # after they are in the host's memory
        ...                                      # write job.output, with the sound
        return {"steps": 4}                      # kept beside the clip

    serve(make, name="mysystem", device="NVIDIA H200", versions={"torch": "2.9"})

Of several processes under torchrun only one may serve; an error that ends another one is reported all the same.
The messages are described in `talkbench/workers/protocol.py`.
"""

from __future__ import annotations

import json
import os
import queue
import runpy
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = 1
_MAX_ATOMIC_BYTES = 4000
"""Processes under torchrun share the pipe; writes up to PIPE_BUF (4096 on Linux) never mix."""


class Job:
    """One clip to make.

    Attributes:
        id: Name of the job.
        image: Path of a PNG, RGB.
        audio: Path of a WAV, 16 kHz, mono, 16-bit.
        audio_seconds: Its length.
        prompt: Text, or None for the system's own.
        seed: Of all randomness.
        output: Where to write the clip: an mp4 with the sound in it.
        scratch: Folder for whatever else; deleted afterwards.
        encode: `native`, or `tap` if the clip will be encoded again: then encode it without loss, if there is a choice.
        message: The job as it was sent.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message
        self.id: str = message["id"]
        self.image: str = message["image"]
        self.audio: str = message["audio"]
        self.audio_seconds: float = message["audio_seconds"]
        self.prompt: str | None = message.get("prompt")
        self.seed: int = message["seed"]
        self.output: str = message["output"]
        self.scratch: str = message["scratch"]
        self.encode: str = message.get("encode", "native")


class Report:
    """Tells the host what happens in a job; every call is a sign of life."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def first_frame(self) -> None:
        """Say that the first frame is in the host's memory, if it is there before its chunk."""
        self._send("first_frame")

    def frames(self, num_frames: int) -> None:
        """Say that a cycle of the system has put this many new frames, all of the clip, into the host's memory."""
        self._send("chunk_done", num_frames=num_frames)

    def mark(self, name: str) -> None:
        """Say that a stage is over: spawn, import_end, load_end, cond_end, first_frames, gen_end, encode_end, exit."""
        self._send("mark", name=name)

    def cycle(self, num_frames: int) -> None:
        """Say that a program which the worker watches has made new frames; they need not all be in the clip."""
        self._send("cycle_done", num_frames=num_frames)

    def generated(self, num_frames: int) -> None:
        """Say how many frames that program has made in all."""
        self._send("generated", num_frames=num_frames)

    def note(self, text: str) -> None:
        """Say what goes on where no frames come for long, so that it is not taken for a hang."""
        self._send("note", text=text[:500])

    def _send(self, event: str, **more: Any) -> None:
        _send(type="progress", job=self._job.id, event=event, at_ns=time.monotonic_ns(), **more)


def serve(
    make: Callable[[Job, Report], dict[str, Any] | None],
    *,
    name: str,
    device: str,
    num_devices: int = 1,
    versions: dict[str, str] | None = None,
    details: dict[str, Any] | None = None,
    survives_errors: bool = True,
) -> None:
    """Take jobs until the host says bye.

    Args:
        make: Writes the clip of a job and returns what should be kept beside it, or raises.
        name: Of the system.
        device: Name of what it runs on.
        num_devices: How many of these.
        versions: Of packages that can move a pixel or a second.
        details: What else is worth knowing of this process: the weights, the arithmetic.
        survives_errors: Whether `make` can be called again after it raised.
    """
    inbox = _listen()
    _send(
        type="hello",
        protocol=PROTOCOL,
        name=name,
        device=device,
        num_devices=num_devices,
        versions=versions or {},
        details=details or {},
    )
    while True:
        message = inbox.get()
        if message["type"] == "bye":
            _send(type="bye")
            return
        job = Job(message)
        report = Report(job)
        report._send("job_received")
        try:
            details_of_clip = make(job, report)
        except Exception as error:  # noqa: BLE001 - whatever a system raises costs this clip, not the next one
            traceback.print_exc()
            _send_error(error, job=job.id, fatal=not survives_errors)
            if not survives_errors:
                _leave(1)
        else:
            _send(type="done", job=job.id, file_closed_ns=time.monotonic_ns(), details=details_of_clip or {})


_channel: dict[str, Any] = {"out": None, "in": None}


def _protect() -> None:
    """Keep the protocol's ends for us; 1 becomes the log and 0 an empty file, for children too."""
    _channel["out"], _channel["in"] = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _send(**message: Any) -> None:
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(_channel["out"], data) :]


def _send_error(error: BaseException, *, job: str | None, fatal: bool) -> None:
    text = f"{type(error).__name__}: {error}"
    while len(json.dumps(text)) > _MAX_ATOMIC_BYTES - 200:
        text = text[: len(text) // 2] + " ..."
    _send(type="error", job=job, message=text, fatal=fatal)


def _listen() -> queue.Queue[dict[str, Any]]:
    """Return a queue of the host's messages, read on a thread that also notices when the host is gone."""
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        with os.fdopen(_channel["in"], "rb") as lines:
            for line in lines:
                message = json.loads(line)
                inbox.put(message)
                if message["type"] == "bye":
                    return
        if "TALKBENCH_WORKER" in os.environ:  # started by a host, hence leader of a group of its own
            os.killpg(os.getpgrp(), signal.SIGKILL)
        inbox.put({"type": "bye"})

    threading.Thread(target=read, daemon=True).start()
    return inbox


def _leave(code: int) -> None:
    """End at once: other threads and processes of the system may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main() -> None:
    _protect()
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as it stands in sys.path
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100
    sys.modules["talkbench_shim"] = sys.modules["__main__"]
    if len(sys.argv) < 2 or sys.argv[1:] == ["-m"]:
        sys.exit("usage: shim.py WORKER.py ARGUMENTS, or shim.py -m MODULE ARGUMENTS")
    try:
        if sys.argv[1] == "-m":
            del sys.argv[:2]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            del sys.argv[:1]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception as error:  # noqa: BLE001 - told to the host, and to the log, and then it is the end
        traceback.print_exc()
        _send_error(error, job=None, fatal=True)
        _leave(1)


if __name__ == "__main__":
    _main()
