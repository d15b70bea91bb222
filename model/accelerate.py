"""What makes the same model faster on a GPU: compiled blocks, 8-bit layers, a CUDA graph, work beside other work."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from talkbench.errors import PrerequisiteError

from .dit import DiT

MAX_GRAPHS = 128
"""Of the block: one per shape, with and without gradients, for each network in training (11 x 2 x 3), and one per rank
that is emulated in a measurement. torch stops at eight, which is meant for programs that are not in order."""


def compile_blocks(dit: DiT, *, fullgraph: bool = True, backend: str = "inductor") -> None:
    """Compile the block, once for all of them, with static shapes.

    Args:
        dit: Its kernel and parallelism are set.
        fullgraph: A graph break is an error, not a slow-down.
        backend: Of `torch.compile`.
    """
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    for block in dit.blocks:
        block.compile(backend=backend, fullgraph=fullgraph, dynamic=False)


def to_fp8(dit: DiT) -> None:
    """Put the blocks' linear layers into 8-bit floating point, one scale per row; other numbers, and faster.

    Embeddings, modulation, audio projector and head keep their precision.

    Raises:
        PrerequisiteError: If torchao is absent, or the GPU has no 8-bit floating-point arithmetic.
    """
    if find_spec("torchao") is None:
        raise PrerequisiteError("fp8 needs torchao: `pip install torchao`.")
    if dit.device.type != "cuda" or torch.cuda.get_device_capability(dit.device) < (8, 9):
        raise PrerequisiteError("fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or newer.")
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def wanted(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.startswith("blocks.")

    quantize_(dit, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=wanted)


class SideStream:
    """Work of a GPU beside that of the current stream, as far as there is room."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        # The current stream wrote the weights. Nothing else that `start` runs may come from it.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def start(self, work: Callable[[], Tensor]) -> Tensor:
        """Return work(), which is being computed; it reads host memory and weights, and is for `join` alone."""
        with torch.cuda.stream(self._stream):
            return work()

    def join(self, result: Tensor) -> Tensor:
        """Return a result of `start` for use in the current stream, which waits for it."""
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        result.record_stream(current)  # its memory is the side stream's, which must not reuse it before this use
        return result


class GraphedSampler:
    """Runs a function as a CUDA graph per set of shapes: plainly the first time, captured the second, then replayed.

    A graph reads and writes fixed addresses. Inputs are therefore copied into buffers, which all graphs share, and the
    result out of the graph's memory, which they share too: they never run at the same time.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, torch.Size], Tensor] = {}
        self._warm: set[Hashable] = set()
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor], setting: Hashable) -> Tensor:
        """Return function(*inputs).

        Args:
            function: What else it reads stays where it is, and is the same whenever `setting` is.
            inputs: On the GPU, each always of the same dtype.
            setting: Tells functions of inputs of the same shapes apart.
        """
        key = (setting, *(value.shape for value in inputs))
        if key not in self._warm:
            # Compilation, loading of kernels, the set-up of NCCL: nothing of it may happen during a capture.
            self._warm.add(key)
            return function(*inputs)
        buffers = [self._filled(place, value) for place, value in enumerate(inputs)]
        if key not in self._captured:
            pool = next((captured.graph.pool() for captured in self._captured.values()), None)
            self._captured[key] = _capture(function, buffers, pool)
        captured = self._captured[key]
        captured.graph.replay()
        return captured.output.clone()

    def _filled(self, place: int, value: Tensor) -> Tensor:
        key = (place, value.shape)
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(value)
        return self._buffers[key].copy_(value)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    output: Tensor


def _capture(function: Callable[..., Tensor], buffers: Sequence[Tensor], pool: Any) -> _Captured:
    graph = torch.cuda.CUDAGraph()
    # In the default mode, threads that wait for the frames of earlier chunks would make the capture fail.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = function(*buffers)
    return _Captured(graph, output)
