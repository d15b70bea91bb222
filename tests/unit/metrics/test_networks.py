"""What loading a network does to the process that it is loaded in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FAULTS = """
import json, resource
import torch
from talkbench.metrics.networks import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_is = faults()
keep_freed_memory()
torch.zeros(64 << 20, dtype=torch.uint8)
print(json.dumps([as_it_is, faults()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_freed_memory_is_used_again_instead_of_being_cleared_by_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    as_it_is, kept = json.loads(done.stdout)
    assert as_it_is > 100
    assert kept < as_it_is / 10
