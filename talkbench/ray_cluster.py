"""Being connected to a Ray cluster; what scoring (`metrics.cluster`) and generating (`systems.cluster`) share.

ray start --head                                 # on one machine; `ray start --address HOST:6379` on the others
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.provenance import host_name

PATIENCE_SECONDS = 60
"""After how long without an answer the log says so."""
_CONNECT_SECONDS = 10
"""How long a head node may take to accept a connection; Ray itself would try for minutes."""
_MESSAGE_CHARACTERS = 500
"""How much of Ray's report on a death is kept: where and how; the rest is advice."""


def module() -> Any:
    """Return Ray.

    Raises:
        PrerequisiteError: If it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise PrerequisiteError("--ray needs Ray: pip install 'talkbench[cluster]'.") from error


def refuse_unknown(address: str) -> None:
    """Check an address before anything is written.

    Raises:
        TalkbenchError: If it is not such an address.
        PrerequisiteError: If Ray is not installed.
    """
    if not re.fullmatch(r"auto|local|[^\s/]+:\d+", address):
        raise TalkbenchError(f"unknown Ray address {address!r}. Expected: auto, local or HOST:PORT (head-node:6379).")
    module()


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected for a while; a notebook's own connection is used and left alone.

    Raises:
        PrerequisiteError: If there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        if address == "local":
            # A cluster that we start reports nothing to Ray's makers, unless the user wants it to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, OverflowError, RuntimeError) as error:
        raise PrerequisiteError(
            f"no Ray cluster at {address}: {error}. Start one with `ray start --head`, or use --ray local. "
            "Clusters with token authentication want RAY_AUTH_MODE=token and their token on every machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def deaths(ray: Any) -> tuple[type[Exception], ...]:
    """Return what `ray.get` raises when a process or its machine is gone."""
    kinds = ray.exceptions
    return (kinds.RayActorError, kinds.WorkerCrashedError, kinds.NodeDiedError, kinds.OutOfMemoryError)


def how(death: Exception) -> str:
    """Return the part of Ray's report on a death that a record keeps."""
    return " ".join(str(death).split())[:_MESSAGE_CHARACTERS]


def see(paths: Iterable[Path], what: str) -> None:
    """Check, on a machine of the cluster, that it sees what the others do.

    Args:
        paths: What must be there.
        what: These things, for the message: "the run folder, the clips and the weights".

    Raises:
        TalkbenchError: With the machine's name and the first path that is not there.
    """
    for path in paths:
        if not path.exists():
            raise TalkbenchError(
                f"machine {host_name()} of the Ray cluster does not see {path}. T{what[1:]} must lie on a file system "
                "that all machines share, under the same paths."
            )
