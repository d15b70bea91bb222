"""A worker from the host's side: what it may do wrong, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from talkbench.workers.host import SHIM, WorkerFailedError
from talkbench.workers.log import WorkerLog
from talkbench.workers.process import WorkerProcess
from tests.support import make_clip
from tests.unit.workers.fakes import FAKES, carrying_any, gone, is_running, job, worker


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1.0)


def failure(
    behaviour: str, clip: Path, folder: Path, limit: float = 10.0, seed: int = 1, **options
) -> WorkerFailedError:
    """Return how a job of a fake fails, and see that its process is gone."""
    with worker(behaviour, clip, folder, **options) as fake:
        with pytest.raises(WorkerFailedError) as caught:
            fake.greet()
            fake.run(job(folder, seed=seed), limit)
        assert gone([fake.pid]) or fake.is_alive
    return caught.value


def test_a_worker_stays_warm_between_jobs_and_its_frames_become_timing_events(clip: Path, tmp_path: Path) -> None:
    before = time.monotonic_ns()
    with worker("good", clip, tmp_path) as fake:
        hello = fake.greet()
        first, second = fake.run(job(tmp_path, "a"), 10), fake.run(job(tmp_path, "b"), 10)
    after = time.monotonic_ns()
    assert (hello.name, hello.device, hello.versions) == ("fake", "a fast chip", {"fake": "1.0"})
    assert first.details["pid"] == second.details["pid"]
    assert (first.details["job"], second.details["job"]) == (1, 2)
    assert (tmp_path / "a.mp4").read_bytes() == clip.read_bytes()
    timing = first.timing
    assert timing is not None
    assert before < timing.job_received_ns < timing.first_frame_ns == timing.chunks[0].done_ns <= timing.file_closed_ns
    assert timing.file_closed_ns < second.timing.job_received_ns < after
    assert (timing.chunks[0].num_frames, timing.device, first.num_frames) == (25, "a fast chip", 25)
    assert 0 <= first.message_delay_seconds < 1


def test_several_chunks_keep_their_order_and_counts(clip: Path, tmp_path: Path) -> None:
    with worker("slow", clip, tmp_path, silence=0.9) as fake:
        fake.greet()
        timing = fake.run(job(tmp_path), 10).timing
    gaps = [(b.done_ns - a.done_ns) / 1e9 for a, b in zip(timing.chunks, timing.chunks[1:], strict=False)]
    assert [chunk.num_frames for chunk in timing.chunks] == [5] * 5
    assert all(0.15 < gap < 0.8 for gap in gaps)


@pytest.mark.parametrize(
    ("behaviour", "raw", "reason", "words"),
    [
        ("leaves", False, "no-handshake", "exit code 1"),
        ("raises", False, "no-handshake", "RuntimeError: weights are torn"),
        ("garbage", True, "protocol", "Loading checkpoint shards"),
        ("binary", True, "protocol", "is no message"),
        ("old", True, "protocol", "version 0 of the protocol"),
        ("impatient", True, "protocol", "'done', not 'hello'"),
        ("unknown-field", True, "protocol", "colour"),
        ("closes", True, "crashed", "closed its stdout"),
        ("other-job", True, "protocol", "'done' came, out of place"),
        ("two-hellos", True, "protocol", "'hello' came, out of place"),
        ("exit0", False, "crashed", "exit code 0"),
    ],
)
def test_every_way_to_fail_has_its_word(
    clip: Path, tmp_path: Path, behaviour: str, raw: bool, reason: str, words: str
) -> None:
    found = failure(behaviour, clip, tmp_path, raw=raw)
    assert found.reason == reason
    assert words in found.message


def test_the_last_words_are_in_the_failure_and_everything_in_the_log(clip: Path, tmp_path: Path) -> None:
    found = failure("leaves", clip, tmp_path)
    assert found.last_words[-1] == "libcudart.so.99: cannot open shared object file"
    assert "libcudart" in (tmp_path / "worker.log").read_text()


def test_a_worker_that_never_says_hello_is_killed_in_time(clip: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    found = failure("late", clip, tmp_path, start=0.3)
    assert (found.reason, found.message) == ("no-handshake", "no hello within 0.3 s")
    assert time.monotonic() - began < 3


def test_silence_and_a_job_without_end_are_timeouts_and_progress_is_a_sign_of_life(clip: Path, tmp_path: Path) -> None:
    silent = failure("hang", clip, tmp_path / "a", silence=0.3)
    endless = failure("chatty", clip, tmp_path / "b", silence=5, limit=0.4)
    assert (silent.reason, silent.message) == ("timeout", "silent for 0.3 s; 3 frames were told of")
    assert (endless.reason, endless.message) == ("timeout", "not done within 0.4 s; 0 frames were told of")


def test_a_worker_that_ignores_sigterm_is_killed(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkbench.workers.process.TERMINATE_SECONDS", 0.3)
    assert failure("deaf", clip, tmp_path, silence=0.3).reason == "timeout"


def test_a_worker_that_does_not_read_its_jobs_is_no_hang(clip: Path, tmp_path: Path) -> None:
    found = failure("deaf", clip, tmp_path, raw=True, silence=0.5)
    assert found.reason in {"crashed", "timeout"}


def test_an_error_costs_its_job_and_the_worker_takes_the_next_one(clip: Path, tmp_path: Path) -> None:
    with worker("error", clip, tmp_path) as fake:
        fake.greet()
        with pytest.raises(WorkerFailedError, match="error: ValueError: no face in the picture: é") as caught:
            fake.run(job(tmp_path, seed=13), 10)
        assert fake.is_alive
        assert fake.run(job(tmp_path, "two"), 10).details["pid"] == fake.pid
    assert len(caught.value.message) < 5000


def test_a_crash_names_the_signal_and_the_worker_is_of_no_more_use(clip: Path, tmp_path: Path) -> None:
    with worker("crash-second", clip, tmp_path) as fake:
        fake.greet()
        fake.run(job(tmp_path, "a"), 10)
        with pytest.raises(WorkerFailedError, match="crashed: the process was ended by SIGSEGV") as caught:
            fake.run(job(tmp_path, "b"), 10)
        assert not fake.is_alive
    assert caught.value.last_words[-1] == "Segmentation fault in nonsense.cu"


@pytest.mark.parametrize("finishes", [True, False])
def test_what_a_worker_started_ends_with_it_even_outside_its_group(clip: Path, tmp_path: Path, finishes: bool) -> None:
    with worker("children", clip, tmp_path, silence=0.5) as fake:
        fake.greet()
        if finishes:
            pids = fake.run(job(tmp_path), 10).details["pids"]
            assert all(is_running(pid) for pid in pids)
        else:
            with pytest.raises(WorkerFailedError, match="timeout") as caught:
                fake.run(job(tmp_path, seed=13), 10)
            pids = [int(pid) for pid in caught.value.last_words[-1].split()[1:]]
    assert len(pids) == 2
    assert gone(pids)


def test_prints_of_libraries_and_children_go_to_the_log_and_never_into_the_protocol(clip: Path, tmp_path: Path) -> None:
    with worker("print", clip, tmp_path) as fake:
        fake.greet()
        fake.run(job(tmp_path), 10)
    log = (tmp_path / "worker.log").read_text()
    for text in ("{'type': 'done'}", "from a child", "straight to the descriptor", "--- job one", "working on one"):
        assert text in log


def test_a_flood_on_stderr_neither_blocks_the_job_nor_fills_the_disk(clip: Path, tmp_path: Path) -> None:
    with worker("flood", clip, tmp_path) as fake:
        fake._log._left = 100_000
        fake.greet()
        assert fake.run(job(tmp_path), 10).num_frames == 25
        fake.stop()
        fake._log.close()
    log = tmp_path / "worker.log"
    assert 100_000 < log.stat().st_size < 200_000
    assert "further bytes were not kept" in log.read_text()


def test_what_a_worker_says_while_it_is_ended_is_not_kept(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path / "log")
    process = WorkerProcess(["yes"], folder=tmp_path, log=log, environment={}, max_line_bytes=100)
    assert process.next_line(10) is not None
    before = len(process._lines)
    process.leave(0.2)
    log.close()
    assert len(process._lines) == before


def test_a_worker_sees_a_clean_environment(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HF_TOKEN_OF_MINE", "kept: it begins as those of its library do")
    monkeypatch.setenv("SECRET_OF_MINE", "never")
    with worker("good", clip, tmp_path) as fake:
        fake.greet()
        raw = Path(f"/proc/{fake.pid}/environ").read_bytes().decode().split("\0")
        assert os.readlink(f"/proc/{fake.pid}/cwd") == str(tmp_path)
        assert os.getsid(fake.pid) == os.getpgid(fake.pid) == fake.pid
    seen = dict(line.partition("=")[::2] for line in raw if line)
    assert "PYTHONPATH" not in seen
    assert "SECRET_OF_MINE" not in seen
    assert (seen["PYTHONSAFEPATH"], seen["HF_HUB_OFFLINE"], seen["TMPDIR"]) == ("1", "1", str(tmp_path))


def test_an_interrupt_from_another_thread_ends_the_job(clip: Path, tmp_path: Path) -> None:
    with worker("hang", clip, tmp_path) as fake:
        fake.greet()
        threading.Timer(0.3, fake.interrupt).start()
        with pytest.raises(WorkerFailedError, match="crashed: the process was ended by SIGKILL"):
            fake.run(job(tmp_path), 10)


def test_leaving_with_an_exception_kills_at_once(clip: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker("late", clip, tmp_path) as fake:
        raise KeyboardInterrupt
    assert gone([fake.pid])
    assert time.monotonic() - began < 3


def test_a_worker_ends_by_itself_when_the_host_is_killed(clip: Path, tmp_path: Path) -> None:
    """The host here is a forked process: it starts a worker, gives it a job that hangs, and is killed."""
    host = os.fork()
    if host == 0:
        try:
            fake = worker("wake", clip, tmp_path)
            fake.greet()
            fake.run(job(tmp_path), 60)
        finally:
            os._exit(0)
    log = tmp_path / "worker.log"
    end = time.monotonic() + 30
    while not (log.is_file() and "pid " in log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    pid = int(log.read_text().rpartition("pid ")[2].split()[0])
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    assert gone([pid])


def test_a_command_that_does_not_exist_is_a_failed_start(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.workers.fakes.command", lambda *a, **k: ["/nonexistent/python"])
    with pytest.raises(WorkerFailedError, match="no-handshake: cannot start /nonexistent/python: No such file"):
        worker("good", clip, tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("raises", "error: RuntimeError: rank 1 fell off the bus"),
        ("dies", "crashed: the process left with exit code 1"),
        ("hangs", "timeout: silent for 1 s"),
    ],
)
def test_a_second_process_that_fails_ends_the_job_with_its_error_and_no_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, words: str
) -> None:
    """Processes in sessions of their own under a launcher, as torchrun starts them."""
    launch = [sys.executable, str(FAKES / "launcher.py"), str(SHIM), str(FAKES / "rank.py"), behaviour]
    monkeypatch.setattr("tests.unit.workers.fakes.command", lambda *a, **k: launch)
    with worker(behaviour, tmp_path, tmp_path, silence=1.0 if behaviour == "hangs" else 10.0) as fake:
        fake.greet()
        began = time.monotonic()
        with pytest.raises(WorkerFailedError, match=words) as caught:
            fake.run(job(tmp_path), 20)
        assert time.monotonic() - began < 6
    assert behaviour != "dies" or caught.value.last_words[-1] == "NCCL watchdog: rank 1"
    assert not carrying_any(b"rank.py", tmp_path)
