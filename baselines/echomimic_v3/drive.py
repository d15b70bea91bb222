"""`python drive.py SETTINGS.json`, in a checkout: run `infer_preview.py`, which has no command line, with settings.

Python 3.8. Its `Config` is replaced by one that has our values; a name that the official one lacks is refused, so
that a setting cannot be ignored in silence.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Import the official script and call its `main`."""
    wanted = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.insert(0, str(Path.cwd()))
    import infer_preview

    sys.stderr.write("talkbench: import_end\n")
    config = infer_preview.Config()
    unknown = sorted(name for name in wanted if not hasattr(config, name))
    if unknown:
        sys.exit("infer_preview.Config has no {}: is this another commit?".format(", ".join(unknown)))
    for name, value in wanted.items():
        setattr(config, name, value)
    infer_preview.Config = lambda: config
    infer_preview.main()


if __name__ == "__main__":
    main()
