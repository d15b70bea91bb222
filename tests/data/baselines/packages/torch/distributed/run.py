"""Stands in for torchrun: every process in a session of its own, as there."""

import argparse
import os
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--standalone", action="store_true")
parser.add_argument("--nproc_per_node", type=int, required=True)
parser.add_argument("--master_port", type=int)
parser.add_argument("script")
parser.add_argument("arguments", nargs=argparse.REMAINDER)
given = parser.parse_args()
processes = [
    subprocess.Popen(
        [sys.executable, given.script, *given.arguments],
        start_new_session=True,
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(given.nproc_per_node)},
    )
    for rank in range(given.nproc_per_node)
]
sys.exit(max(process.wait() for process in processes))
