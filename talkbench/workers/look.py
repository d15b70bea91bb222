"""What an environment holds, told by its own interpreter: needs only Python 3.8 and its standard library, run by path.

    python look.py MODULE ...

Prints one JSON line per fact, each as soon as it is known, so that a module that kills the interpreter is the last one
named: `python`, `packages` (name -> version), `importing` and `imported` (with `error`) per module, `gpus`.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path


def main(modules: list[str]) -> None:
    """Tell everything; stdout is kept from the modules, some of which greet the user."""
    facts = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]

    def tell(**fact: object) -> None:
        facts.write(json.dumps(fact) + "\n")
        facts.flush()

    tell(python=platform.python_version())
    tell(packages={each.metadata["Name"]: each.version for each in metadata.distributions()})
    for name in modules:
        tell(importing=name)
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever a module raises is what we are asked for
            tell(imported=name, error="{}: {}".format(type(error).__name__, error))  # noqa: UP032 - one form for both
        else:
            tell(imported=name, error=None)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda"):
        tell(gpus=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())])


if __name__ == "__main__":
    main(sys.argv[1:])
