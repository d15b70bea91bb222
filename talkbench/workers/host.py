"""The host's side of a worker: handshake, one job at a time, time limits, and why a job came to nothing.

A failure has one of the reasons of `talkbench.workers.faults`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from talkbench.schema import Chunk, Timing
from talkbench.workers import protocol
from talkbench.workers.log import WorkerLog
from talkbench.workers.memory import SAMPLE_SECONDS, MemoryMeter, PeakMemory
from talkbench.workers.process import OutputEnded, WorkerProcess

Reason = Literal["no-handshake", "crashed", "timeout", "error", "protocol", "bad-output"]

SHIM = Path(__file__).with_name("shim.py")
POLITE_SECONDS = 10.0
"""From bye to the end: a process without a job has nothing to finish."""


class WorkerFailedError(Exception):
    """A job that came to nothing.

    Args:
        reason: One of the words above.
        message: What happened.
        last_words: The end of the worker's log.
    """

    def __init__(self, reason: Reason, message: str, last_words: Sequence[str] = ()) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.last_words = tuple(last_words)


@dataclass(frozen=True)
class Limits:
    """How long to wait.

    Attributes:
        start_seconds: Until hello: imports, loading weights.
        silence_seconds: Between two messages in a job: the longest cycle, compilation included.
    """

    start_seconds: float
    silence_seconds: float


@dataclass(frozen=True)
class Finished:
    """A job that a worker says it has done.

    Attributes:
        details: What the worker wants kept beside the clip.
        timing: When its messages arrived, on the host's clock; None if it told of no frames and of no stage.
        num_frames: Frames of the clip that it told of.
        message_delay_seconds: Longest time from an event, on the worker's clock, to the arrival of its message: how
            far `timing` can be trusted.
        memory: The most that it has used during the job.
    """

    details: dict[str, Any]
    timing: Timing | None
    num_frames: int
    message_delay_seconds: float
    memory: PeakMemory


class Worker:
    """A system being run: `greet` it, let it `run` jobs, `stop` it.

    As a context manager: leaving it says bye, leaving it with an error kills.

    Args:
        command: Program and arguments.
        folder: Working directory, and where its temporary files go.
        log: Takes what it prints.
        limits: How long to wait.
        environment: Variables besides the inherited ones.
        gpus: GPUs whose memory is watched, as `CUDA_VISIBLE_DEVICES` names them.

    Raises:
        WorkerFailedError: If it cannot be started.
    """

    hello: protocol.Hello

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        log: WorkerLog,
        limits: Limits,
        environment: Mapping[str, str] = {},
        gpus: tuple[str, ...] = (),
    ) -> None:
        self._log = log
        self._limits = limits
        self._gpus = gpus
        self.is_alive = True
        log.mark(f"start {' '.join(command)}")
        try:
            self._process = WorkerProcess(
                command, folder=folder, log=log, environment=environment, max_line_bytes=protocol.MAX_LINE_BYTES
            )
        except OSError as error:
            raise WorkerFailedError("no-handshake", f"cannot start {command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Process id, which is the group's and the session's too."""
        return self._process.pid

    def greet(self) -> protocol.Hello:
        """Wait until the worker is ready, and return what it is.

        Raises:
            WorkerFailedError: If it does not say hello in time and in our version of the protocol. It has ended then.
        """
        with self._ended_on_failure():
            self.hello = self._handshake()
        return self.hello

    def run(self, job: protocol.Job, limit_seconds: float) -> Finished:
        """Have a job done.

        Raises:
            WorkerFailedError: If it is not done within `limit_seconds`, or at all. The worker has ended then, unless
                `is_alive` says that it can take another job.
        """
        self._log.mark(f"job {job.id}")
        with self._ended_on_failure(), MemoryMeter(self.pid, self._gpus) as meter:
            outcome = self._converse(job, time.monotonic() + limit_seconds, limit_seconds, meter)
        if isinstance(outcome, protocol.Error):
            self._process.take_log()
            raise WorkerFailedError("error", outcome.message, self._log.tail())
        return outcome

    def stop(self) -> None:
        """Say bye and wait; what does not leave is killed. Does nothing if it has ended."""
        if not self.is_alive:
            return
        with contextlib.suppress(OutputEnded):
            self._process.send(protocol.to_line(protocol.Bye()))
        self.is_alive = False
        self._process.leave(POLITE_SECONDS)

    def interrupt(self) -> None:
        """Kill it from another thread; a job that runs fails."""
        self._process.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        else:
            self._end()

    def _handshake(self) -> protocol.Hello:
        seconds = self._limits.start_seconds
        try:
            message, _ = self._next(time.monotonic() + seconds)
        except TimeoutError as error:
            raise WorkerFailedError("no-handshake", f"no hello within {seconds:g} s") from error
        except OutputEnded as error:
            raise WorkerFailedError("no-handshake", self._process.how_it_ended()) from error
        if isinstance(message, protocol.Error):
            raise WorkerFailedError("no-handshake", message.message)
        if not isinstance(message, protocol.Hello):
            raise WorkerFailedError("protocol", f"its first message is {message.type!r}, not 'hello'")
        if message.protocol != protocol.PROTOCOL:
            raise WorkerFailedError(
                "protocol", f"it speaks version {message.protocol} of the protocol, we speak {protocol.PROTOCOL}"
            )
        return message

    def _converse(
        self, job: protocol.Job, end: float, limit_seconds: float, meter: MemoryMeter
    ) -> Finished | protocol.Error:
        """Send a job and listen to its end; an error is returned if the worker can go on."""
        events: list[tuple[protocol.Progress, int]] = []
        sent_ns = time.monotonic_ns()
        silence = self._limits.silence_seconds
        try:
            self._process.send(protocol.to_line(job))
            while True:
                message, now_ns = self._next(min(end, time.monotonic() + silence), meter)
                if isinstance(message, protocol.Error) and message.fatal:
                    raise WorkerFailedError("error", message.message)
                if isinstance(message, protocol.Hello | protocol.Bye) or message.job != job.id:
                    raise WorkerFailedError("protocol", f"{message.type!r} came, out of place, while {job.id} was made")
                if isinstance(message, protocol.Error):
                    return message
                if isinstance(message, protocol.Done):
                    return self._finished(message, events, (sent_ns, now_ns), meter.peak())
                events.append((message, now_ns))
        except TimeoutError as error:
            told = sum(event.num_frames for event, _ in events)
            why = f"not done within {limit_seconds:g} s" if time.monotonic() >= end else f"silent for {silence:g} s"
            raise WorkerFailedError("timeout", f"{why}; {told} frames were told of") from error
        except OutputEnded as error:
            raise WorkerFailedError("crashed", self._process.how_it_ended()) from error

    def _finished(
        self,
        done: protocol.Done,
        events: list[tuple[protocol.Progress, int]],
        job_ns: tuple[int, int],
        memory: PeakMemory,
    ) -> Finished:
        stamps = [(e.at_ns, at) for e, at in events] + [(done.file_closed_ns, job_ns[1])]
        return Finished(
            details=done.details,
            timing=self._timing(events, *job_ns),
            num_frames=sum(e.num_frames for e, _ in events if e.event == "chunk_done"),
            message_delay_seconds=max(here - there for there, here in stamps) / 1e9,
            memory=memory,
        )

    def _timing(self, events: list[tuple[protocol.Progress, int]], sent_ns: int, closed_ns: int) -> Timing | None:
        """Return when things happened; of a stage that is told of twice, the first time."""
        stages = {e.name: at for e, at in reversed(events) if e.event == "mark" and e.name is not None}
        cycles = [(e, at) for e, at in events if e.event in {"chunk_done", "cycle_done"} and e.num_frames]
        pictures = [at for e, at in events if e.event == "first_frame"] + [at for _, at in cycles]
        if not stages and not cycles:
            return None
        return Timing(
            job_received_ns=sent_ns,
            first_frame_ns=stages.get("first_frames", min(pictures, default=None)),
            chunks=tuple(Chunk(done_ns=at, num_frames=e.num_frames) for e, at in cycles),
            file_closed_ns=closed_ns,
            device=self.hello.device,
            num_devices=self.hello.num_devices,
            events=dict(sorted(stages.items(), key=lambda stage: stage[1])),
            num_frames=next((e.num_frames for e, _ in events if e.event == "generated" and e.num_frames), None),
        )

    def _next(self, until: float, meter: MemoryMeter | None = None) -> tuple[protocol.FromWorker, int]:
        """Return the next message and its arrival, waiting until a time of `time.monotonic`."""
        found = None
        while found is None:
            found = self._process.next_line(max(0.0, min(until - time.monotonic(), SAMPLE_SECONDS)))
            if meter is not None:
                meter.sample()
            if found is None and time.monotonic() >= until:
                raise TimeoutError
        line, now_ns = found
        try:
            return protocol.parse(line), now_ns
        except protocol.ProtocolError as error:
            raise WorkerFailedError("protocol", str(error)) from error

    @contextlib.contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        """End the process whatever goes wrong, and add its last words to what we say of it."""
        try:
            yield
        except WorkerFailedError as error:
            self._end()
            error.last_words = self._log.tail()
            raise
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self.is_alive = False
        self._process.end()
