"""What makes the same model faster on a GPU: compiled blocks, 8-bit linear layers, one CUDA graph for the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from talkbench.errors import PrerequisiteError

from .dit import DiT

WARM_UP_RUNS = 3


def compile_blocks(dit: DiT, *, fullgraph: bool = True, backend: str = "inductor") -> None:
    """Compile the block, once for all of them, with static shapes.

    Args:
        dit: Its kernel and parallelism are set.
        fullgraph: A graph break is an error, not a slow-down.
        backend: Of `torch.compile`.
    """
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


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for buffer, value in zip(self.inputs, inputs, strict=True):
            buffer.copy_(value)
        self.graph.replay()
        return self.output.clone()


class GraphedSampler:
    """Runs a function as one CUDA graph, captured the first time that shapes and constants are new."""

    def __init__(self) -> None:
        self._constants: object = None
        self._captured: dict[tuple[torch.Size, ...], _Captured] = {}

    def __call__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor], constants: object) -> Tensor:
        """Return function(*inputs).

        Args:
            function: Depends on its inputs, and on tensors that stay where they are while `constants` is the same.
            inputs: On the GPU.
            constants: Graphs captured for another object are dropped.
        """
        if constants is not self._constants:
            self._constants, self._captured = constants, {}
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._captured:
            self._captured[shapes] = _capture(function, inputs)
        return self._captured[shapes](inputs)


def _capture(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> _Captured:
    buffers = tuple(value.clone() for value in inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            function(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*buffers)
    return _Captured(graph, buffers, output)
