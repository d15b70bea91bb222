"""Processes whose host is gone: found by what they inherited, and ended.

Every worker, uv and git, and whatever they start, carries a token in its environment that names the host that started
it: its process id, when it started, and the process namespace these numbers mean something in. So nothing has to be
written down to tell, later, that a process belongs to a host that no longer lives.

A host that dies by `kill -9` can end nothing itself. Its guard does: this file, run by path as a process of its own
that waits for the host's end of a pipe to close. `reap` is for what a guard that was killed too has left.

    python -I -S orphans.py PREFIX
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

_log = logging.getLogger(__name__)

TOKEN = "TALKBENCH_WORKER"  # noqa: S105 - the name of a variable
KILL_SECONDS = 20.0
_POLL_SECONDS = 0.02
_guard: dict[int, int] = {}
"""Process that has a guard -> its end of the pipe; a fork has none until it starts one."""
_one_guard = threading.Lock()


def host_prefix() -> str:
    """Return how the tokens of this process's workers begin."""
    namespace = _namespace()
    return f"{namespace}.{os.getpid()}.{_started(os.getpid())}."


def start_guard() -> None:
    """See to it that the workers of this process die with it; does nothing the second time, or without `/proc`."""
    with _one_guard:
        if os.getpid() in _guard or not _started(os.getpid()):
            return
        theirs, ours = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        files = [(os.POSIX_SPAWN_DUP2, *pair) for pair in ((theirs, 0), (nothing, 1), (nothing, 2))]
        command = [sys.executable, "-I", "-S", __file__, host_prefix()]
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        try:
            os.posix_spawn(sys.executable, command, environment, file_actions=files, setsid=True)
        finally:
            os.close(theirs)
            os.close(nothing)
        for inherited in _guard.values():
            os.close(inherited)
        _guard.clear()
        _guard[os.getpid()] = ours


def new_token() -> str:
    """Return a token for a process that is to die with us, and see to that."""
    start_guard()
    return host_prefix() + os.urandom(16).hex()


def environment() -> dict[str, str]:
    """Return our own environment with a new token, for a process that needs all of it."""
    return os.environ | {TOKEN: new_token()}


def carrying(text: str) -> list[int]:
    """Return the living processes that have a text in a token; needs Linux, none elsewhere."""
    return [pid for pid, token in _tokens() if text in token]


def kill_carrying(text: str) -> None:
    """Kill them, until none is left: one that is being born is found the next time.

    What hangs in the kernel (a dead disk, a lost GPU) no signal ends: it is named in a warning, and left.
    """
    end = time.monotonic() + KILL_SECONDS
    while pids := carrying(text):
        if time.monotonic() > end:
            _log.warning("processes of a system do not end, even by kill -9: %s", ", ".join(map(str, pids)))
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def reap() -> int:
    """Kill the processes of this user whose host is gone; return how many there were."""
    number = 0
    for host in {host for _, token in _tokens() if (host := _host_of(token)) and _is_gone(*host)}:
        prefix = ".".join(map(str, (_namespace(), *host))) + "."
        number += len(carrying(prefix))
        kill_carrying(prefix)
    return number


def is_alive(pid: int) -> bool:
    """Tell a process from a zombie, which is gone but for its exit code."""
    return bool(_started(pid))


def _host_of(token: str) -> tuple[int, int] | None:
    """Return id and start of the process that a token names, if it is one of our namespace."""
    parts = token.split(".")
    if len(parts) != 4 or parts[0] != _namespace() or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return int(parts[1]), int(parts[2])


def _is_gone(pid: int, started: int) -> bool:
    return _started(pid) != started


def _tokens() -> list[tuple[int, str]]:
    """Return the living processes that carry a token, of those whose environment can be read."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            if f"{TOKEN}=".encode() not in environment:
                continue
            for variable in environment.split(b"\0"):
                name, _, value = variable.partition(b"=")
                if name == TOKEN.encode() and is_alive(int(entry.name)):
                    found.append((int(entry.name), value.decode("ascii", "replace")))
    return found


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it is gone, a zombie, or there is no `/proc`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115 - it is no path
    except OSError:
        return "0"


def _main() -> None:
    """Wait until the host is gone, then end what it has left."""
    while os.read(0, 1):
        pass
    kill_carrying(sys.argv[1])


if __name__ == "__main__":
    _main()
