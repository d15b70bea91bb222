"""A system for tests: `shim.py fake.py BEHAVIOUR CLIP` copies CLIP instead of making one, and misbehaves as told."""

import os
import shutil
import signal
import subprocess
import sys
import time

from talkbench_shim import serve

behaviour, clip = sys.argv[1:3]
jobs = []


def put(job, size=None):
    shutil.copy(clip, job.output)
    if size is not None:
        os.truncate(job.output, int(size * os.path.getsize(clip)))


def make(job, report):
    jobs.append(job.id)
    print("working on", job.id, flush=True)
    act = globals().get("act_" + behaviour.replace("-", "_"))
    if act is not None:
        return act(job, report)
    report.frames(25)
    put(job)
    return {"job": len(jobs), "pid": os.getpid(), "folder": os.getcwd(), "prompt": job.prompt}


def act_still(job, report):
    """Tell of no frames: a system that was not made to be timed."""
    put(job)


def act_crash_second(job, report):
    if len(jobs) == 2:
        print("Segmentation fault in nonsense.cu", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    report.frames(25)
    put(job)
    return {"pid": os.getpid()}


def act_hang(job, report):
    report.frames(3)
    time.sleep(600)


def act_deaf(job, report):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def act_slow(job, report):
    for _ in range(5):
        time.sleep(0.2)
        report.frames(5)
    put(job)


def act_chatty(job, report):
    while True:
        report.note("still compiling")
        time.sleep(0.05)


def act_error(job, report):
    if job.seed == 13:
        raise ValueError("no face in the picture: é " + "x" * 9000)
    report.frames(25)
    put(job)
    return {"pid": os.getpid()}


def act_nothing(job, report):
    report.frames(25)


def act_exit0(job, report):
    put(job)
    os._exit(0)


def act_partial(job, report):
    report.frames(25)
    put(job, size=0.6)


def act_boastful(job, report):
    report.frames(100)
    put(job)


def act_children(job, report):
    """Leave a child in the group, and one that left it, as torchrun's processes do."""
    pids = [subprocess.Popen(["sleep", "600"]).pid, subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    report.frames(25)
    put(job)
    if job.seed == 13:
        print("children:", *pids, flush=True)
        time.sleep(600)
    return {"pids": pids}


def act_flood(job, report):
    for _ in range(64):
        os.write(2, b"nonsense " * 7281 + b"\n")
    report.frames(25)
    put(job)


def act_print(job, report):
    print("{'type': 'done'}")
    os.system("echo from a child; cat > /dev/null")
    os.write(1, b"straight to the descriptor\n")
    report.frames(25)
    put(job)


def act_wake(job, report):
    """Only here to be killed from outside."""
    print("pid", os.getpid(), flush=True)
    time.sleep(600)


if behaviour == "leaves":
    sys.exit("libcudart.so.99: cannot open shared object file")
if behaviour == "raises":
    raise RuntimeError("weights are torn")
if behaviour == "late":
    time.sleep(600)
serve(make, name="fake", device="a fast chip", versions={"fake": "1.0"}, survives_errors=behaviour != "fatal")
