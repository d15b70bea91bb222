"""talkbench: prove that a talking avatar is better. Clips in, one trustworthy table out.

    import talkbench
    talkbench.score(["clips/ours", "clips/theirs"], "runs/a")
    rows = talkbench.load_rows("runs/a")          # a pandas DataFrame

Importing the package imports no torch, no decoder and no pandas; each function does when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talkbench.api import compare, export, generate, load_rows, run, score, status

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "export", "generate", "load_rows", "run", "score", "status"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from talkbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'talkbench' has no attribute {name!r}")
