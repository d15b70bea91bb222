"""One of two processes of a system: `rank.py BEHAVIOUR`. The first serves, the second fails while a job runs."""

import os
import signal
import sys
import time

from talkbench_shim import serve

begun = os.path.join(os.environ["TMPDIR"], "begun")


def make(job, report):
    with open(begun, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


if os.environ["RANK"] == "0":
    serve(make, name="two", device="chip", num_devices=2, survives_errors=False)
while not os.path.exists(begun):
    time.sleep(0.02)
if sys.argv[1] == "raises":
    raise RuntimeError("rank 1 fell off the bus")
if sys.argv[1] == "dies":
    print("NCCL watchdog: rank 1", flush=True)
    os.kill(os.getpid(), signal.SIGBUS)
time.sleep(600)
