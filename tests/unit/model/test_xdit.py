"""The optional xfuser back end: refusals without it; with it, equality to our own exchange.

xfuser's own start-up wants a GPU. On a CPU its environment module is loaded first and told of gloo, as below.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from model.config import ParallelConfig
from model.kernels import FlashKernel
from model.parallel.mesh import Mesh, connect
from model.parallel.sequence import SequenceParallel
from model.parallel.xdit import XditParallel, with_xdit
from talkbench.errors import PrerequisiteError, TalkbenchError
from tests.support import ROOT
from tests.unit.model.processes import run

NEEDED = ("xfuser", "yunchang", "triton")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_xfuser = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="xfuser would give each process a GPU of its own")
WORLDS = [(2, 1), (1, 2), (4, 1), (2, 2), (1, 4)]


def test_without_xfuser_the_back_end_is_refused_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xfuser", None)
    parallel = SequenceParallel(Mesh(0, 2, 1, None, None, None), FlashKernel())
    with pytest.raises(PrerequisiteError, match=r"needs xfuser.*pip install 'talkbench\[hopper\]'"):
        with_xdit(parallel)


def test_unequal_shards_are_refused_because_xfuser_would_attend_to_padding() -> None:
    parallel = XditParallel(Mesh(0, 8, 1, None, None, None), FlashKernel())
    shard = torch.zeros(1, 1317, 8, 16)
    with pytest.raises(TalkbenchError, match="xfuser needs equal shards: 10530 tokens do not divide by 8 processes"):
        parallel.attend(shard, shard, shard, 10530)


def test_importing_the_model_does_not_import_xfuser() -> None:
    code = "import sys, model.parallel.xdit, model.attention; print('xfuser' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def let_xfuser_start_on_a_cpu() -> None:
    """Load `xfuser.envs` under a bare package, answer its questions about the GPU, then let the package load."""
    package = types.ModuleType("xfuser")
    package.__path__ = list(importlib.util.find_spec("xfuser").submodule_search_locations)  # type: ignore[union-attr]
    sys.modules["xfuser"] = package
    envs = importlib.import_module("xfuser.envs")
    envs.get_device_version = lambda: None
    envs.get_torch_distributed_backend = lambda: "gloo"
    envs.PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True
    del sys.modules["xfuser"]
    importlib.import_module("xfuser")
    # Without CUDA, USP leaves out its process groups.
    usp = importlib.import_module("xfuser.model_executor.layers.usp")
    usp.PROCESS_GROUP = importlib.import_module("yunchang.globals").PROCESS_GROUP


def difference(rank: int, num_processes: int, ulysses: int, ring: int) -> float:
    """Return the largest difference between xfuser's attention and ours, around the same kernel."""
    let_xfuser_start_on_a_cpu()
    ours = SequenceParallel(connect(ParallelConfig(ulysses=ulysses, ring=ring), torch.device("cpu")), FlashKernel())
    theirs = with_xdit(ours)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (ours.shard(torch.randn(2, 64, 8, 16, generator=generator)) for _ in range(3))
    return (theirs.attend(q, k, v, 64) - ours.attend(q, k, v, 64)).abs().max().item()


@needs_xfuser
@needs_no_gpu
@pytest.mark.parametrize(("ulysses", "ring"), WORLDS)
def test_xfusers_exchange_gives_what_ours_gives(ulysses: int, ring: int, tmp_path: Path) -> None:
    found = run(difference, ulysses * ring, tmp_path, ulysses, ring)
    assert max(found) <= (0.0 if ring == 1 else 1e-6)
