"""A system for tests that does without the shim: `raw.py BEHAVIOUR`."""

import json
import os
import sys
import time

behaviour = sys.argv[1]
hello = {"type": "hello", "protocol": 1, "name": "raw", "device": "chip"}


def say(message):
    sys.stdout.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
    sys.stdout.flush()


if behaviour == "garbage":
    say("Loading checkpoint shards: 100%")
elif behaviour == "old":
    say({**hello, "protocol": 0})
elif behaviour == "binary":
    os.write(1, os.urandom(3 << 20))
elif behaviour == "impatient":
    say({"type": "done", "job": "x", "file_closed_ns": 1})
elif behaviour == "unknown-field":
    say({**hello, "colour": "blue"})
elif behaviour == "closes":
    say(hello)
    sys.stdin.readline()
    os.close(1)
elif behaviour == "other-job":
    say(hello)
    sys.stdin.readline()
    say({"type": "done", "job": "another", "file_closed_ns": 1})
elif behaviour == "two-hellos":
    say(hello)
    say(hello)
elif behaviour == "deaf":
    say(hello)
    sys.stdin.close()
    os.close(0)
time.sleep(600)
