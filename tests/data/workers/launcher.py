"""Start processes as torchrun does, each in a session of its own; the first to fail ends the others.

`launcher.py SHIM WORKER BEHAVIOUR`
"""

import os
import signal
import subprocess
import sys
import time

ranks = [
    subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, "RANK": str(rank)}, start_new_session=True)
    for rank in range(2)
]
while all(process.poll() is None for process in ranks):
    time.sleep(0.02)
failed = next(process for process in ranks if process.poll() is not None)
for process in ranks:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
sys.exit(min(1, abs(failed.returncode)))
