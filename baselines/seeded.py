"""`python seeded.py SEED SCRIPT ARGUMENTS`: run an official script that seeds nothing, or hangs after an error.

Python 3.8; numpy and torch are those of the system's environment.
"""

from __future__ import annotations

import os
import random
import runpy
import sys
import traceback


def main() -> None:
    """Seed, run, and leave whatever threads still wait for work that will not come."""
    seed, script = int(sys.argv[1]), os.path.abspath(sys.argv[2])  # noqa: PTH100
    random.seed(seed)
    for name in ("numpy", "torch"):
        module = __import__(name)
        (module.random.seed if name == "numpy" else module.manual_seed)(seed % 2**32)
    sys.path[0] = os.path.dirname(script)  # noqa: PTH120
    del sys.argv[:2]
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - printed, and then it is the end
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
