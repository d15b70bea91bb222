"""What host and worker say to each other: one JSON object per line, a worker's stdin in, its stdout out.

    worker: hello                      once, when jobs can be taken
    host:   job                        one at a time
    worker: progress*, done or error   `progress` carries the timing events, and is the sign of life
    host:   bye                        the worker answers bye and leaves

`talkbench/workers/shim.py` is the worker's side. It knows nothing of this file, so a change here is a change there,
and of the number if an older worker would be misunderstood.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from talkbench.schema import Encode, TimingEvent

PROTOCOL = 1
MAX_LINE_BYTES = 1 << 20

Event = Literal["job_received", "first_frame", "chunk_done", "mark", "cycle_done", "generated", "note"]
"""`cycle_done` and `generated` are of another program that the worker watches: not all its frames must be in the clip.
"""


class ProtocolError(Exception):
    """A line that is no message."""


class Message(BaseModel):
    """Base of all messages: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Hello(Message):
    """The worker is ready."""

    type: Literal["hello"] = "hello"
    protocol: int
    name: str
    device: str = Field(description="What it runs on, as in the speed table.")
    num_devices: int = Field(default=1, ge=1)
    versions: dict[str, str] = Field(default_factory=dict, description="Packages that can move a pixel or a second.")
    details: dict[str, Any] = Field(default_factory=dict)


class Job(Message):
    """One clip to make."""

    type: Literal["job"] = "job"
    id: str
    image: str = Field(description="PNG, RGB.")
    audio: str = Field(description="WAV, 16 kHz, mono, 16-bit.")
    audio_seconds: float
    prompt: str | None = None
    seed: int
    output: str = Field(description="Where the clip (mp4 with the sound in it) is expected.")
    encode: Encode = Field(
        default="native",
        description="`tap`: the clip will be encoded again, so whatever encodes it before does so without loss if it "
        "can choose.",
    )
    scratch: str = Field(description="Folder of this attempt; deleted afterwards.")


class Progress(Message):
    """Something happened; `at_ns` is the worker's monotonic clock."""

    type: Literal["progress"] = "progress"
    job: str
    event: Event
    at_ns: int
    num_frames: int = Field(
        default=0,
        ge=0,
        description="Of `chunk_done` and `cycle_done`: frames that are new on the host. Of `generated`: all of them.",
    )
    name: TimingEvent | None = Field(default=None, description="Of `mark`: what happened.")
    text: str = ""


class Done(Message):
    """The file is closed."""

    type: Literal["done"] = "done"
    job: str
    file_closed_ns: int
    details: dict[str, Any] = Field(default_factory=dict)


class Error(Message):
    """The job failed; `fatal` if the process cannot take another one."""

    type: Literal["error"] = "error"
    job: str | None = None
    message: str
    fatal: bool = False


class Bye(Message):
    """The end, asked for by the host and confirmed by the worker."""

    type: Literal["bye"] = "bye"


FromWorker = Hello | Progress | Done | Error | Bye
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="type")])


def parse(line: bytes) -> FromWorker:
    """Return the message on a line of a worker's stdout.

    Raises:
        ProtocolError: If it is none; the text quotes the line.
    """
    try:
        return _FROM_WORKER.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProtocolError(f"{line[:120]!r} is no message ({where + ': ' if where else ''}{first['msg']})") from error


def to_line(message: Message) -> bytes:
    """Return a message as it is sent."""
    return message.model_dump_json().encode() + b"\n"
