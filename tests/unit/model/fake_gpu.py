"""A GPU that computes nothing: tensors have shape, dtype and device "cuda", wherever the tests run.

Operators that mix devices, or read a value of the device on the host, raise. `Observed` counts what the others do.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

NetT = TypeVar("NetT", bound=nn.Module)
CUDA = torch.device("cuda", 0)
LIBRARY = Path(torch.__file__).parent / "lib" / "libc10.so"
_CUDA, _META = 1, 14
"""Places in c10's list of device types (`c10/core/DeviceType.h`)."""


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Have tensors made inside be fake ones; those from outside are taken over as they are."""
    with _device_guard(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def _device_guard() -> Iterator[None]:
    """Lend the type "cuda" the device guard of "meta", which does nothing.

    A torch built for CPUs has none, and indexing alone then raises: FakeTensorMode replaces only a guard that is there.
    """
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(
        ctypes.CDLL(str(LIBRARY)), "_ZN3c104impl26device_guard_impl_registryE"
    )
    own = guards[_CUDA]
    guards[_CUDA] = own or guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = own


def made(make: Callable[[], NetT], dtype: torch.dtype) -> NetT:
    """Return a frozen network on the fake GPU; to be called inside of `fake_gpu`."""
    with torch.device("meta"), torch.utils._python_dispatch._disable_current_modes():
        net = make().to(dtype)
    fake: dict[nn.Parameter, nn.Parameter] = {}
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in fake:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
                fake[parameter] = nn.Parameter(empty, requires_grad=False)
            setattr(module, name, fake[parameter])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
    return net.eval()


@dataclass(frozen=True)
class Transfer:
    """A copy between host and device."""

    target: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    non_blocking: bool


class Observed(TorchDispatchMode):
    """What runs inside.

    Attributes:
        flops: Of matrix products, convolutions and attention, by the dtype of their result.
        live_bytes: Of what was allocated on the device inside and is still there.
        peak_bytes: The most that this ever was.
        largest_numel: Elements of the largest tensor.
        dtypes: Of all tensors on the device.
        transfers: Copies between host and device, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()
        self.live_bytes = self.peak_bytes = self.largest_numel = 0
        self.dtypes: set[torch.dtype] = set()
        self.transfers: list[Transfer] = []
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._known.update(tensor.untyped_storage() for tensor in given)
        result = func(*args, **kwargs)
        returned = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if (packet := func._overloadpacket) in flop_registry:
            self.flops[returned[0].dtype] += flop_registry[packet](*args, **kwargs, out_val=result)
        elif packet is torch.ops.talkbench.convolution:
            self.flops[result.dtype] += 2 * result.numel() * args[1].numel() // args[1].shape[0]
        for tensor in returned:
            if tensor.device.type == "cuda":
                self._allocated(tensor)
        self._transferred(func, given, returned, args, kwargs)
        return result

    def _allocated(self, tensor: Tensor) -> None:
        self.dtypes.add(tensor.dtype)
        self.largest_numel = max(self.largest_numel, tensor.numel())
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.live_bytes += storage.nbytes()
        weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _freed(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes

    def _transferred(self, func: Any, given: list[Tensor], returned: list[Tensor], args: Any, kwargs: Any) -> None:
        kinds = {tensor.device.type for tensor in (*given, *returned)}
        if len(kinds) > 1:
            (target,) = returned
            in_place = func._overloadpacket is torch.ops.aten.copy_
            waits_not = bool(args[2:] and args[2]) if in_place else bool(kwargs.get("non_blocking"))
            self.transfers.append(Transfer(target.device.type, tuple(target.shape), target.dtype, waits_not))
