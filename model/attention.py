"""Which attention kernel this machine runs, chosen once per pipeline; and the masked audio attention.

Legend: B batch, N queries, M keys, A heads, d head width.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from talkbench.errors import TalkbenchError

from .kernels import NAMES, PACKAGES, Kernel, check_kernel, make_kernel

__all__ = [
    "Kernel",
    "Machine",
    "candidates",
    "check_kernel",
    "choose_kernel",
    "make_kernel",
    "masked_attention",
    "obstacle",
    "survey",
]

logger = logging.getLogger(__name__)


def masked_attention(q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor, mask_NM: Tensor) -> Tensor:
    """Return attention [B, N, A, d] of each query over the keys that its row of the mask allows.

    Args:
        q_BNAd: Queries.
        k_BMAd: Keys.
        v_BMAd: Values.
        mask_NM: bool, true where query n sees key m; every row must allow a key. Audio attention of a shard allows
            the audio tokens of the query's own latent frame, whatever tokens the shard holds.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask_NM).transpose(1, 2)


@dataclass(frozen=True)
class Machine:
    """What decides which kernels can run.

    Attributes:
        device_type: ``cuda`` or ``cpu``.
        capability: Of the GPU; (9, 0) is Hopper.
        flash: Whether torch was built with its FlashAttention.
        cudnn: Whether torch can call cuDNN.
        modules: Which of `PACKAGES` import without error.
    """

    device_type: str
    capability: tuple[int, int] = (0, 0)
    flash: bool = True
    cudnn: bool = True
    modules: frozenset[str] = field(default_factory=frozenset)


def survey(device: torch.device) -> Machine:
    """Return what `device` and the installed packages offer."""
    if device.type != "cuda":
        return Machine(device.type)
    return Machine(
        "cuda",
        torch.cuda.get_device_capability(device),
        torch.backends.cuda.is_flash_attention_available(),
        torch.backends.cudnn.is_available(),
        frozenset(module for module in PACKAGES.values() if _imports(module)),
    )


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == module):  # built for another CUDA or torch
            logger.warning("%s is installed but does not load: %s", module, error)
        return False
    return True


def obstacle(name: str, machine: Machine, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why a kernel cannot run, or None if it can.

    Source of the limits: FlashAttention 2.8 and 3 (README), torch 2.13 (`sdp_utils.cpp`).
    """
    if name == "math" or (name == "flash" and machine.device_type == "cpu"):
        return None
    module = PACKAGES.get(name)
    widest = 128 if name == "cudnn" else 256
    capability = ".".join(map(str, machine.capability))
    needed = "9.x" if name == "fa3" else "8.0 or later"
    checks = [
        (machine.device_type != "cuda", f"it needs a CUDA device, this is {machine.device_type}"),
        (module is not None and module not in machine.modules, f"package {module} does not import"),
        (not {"flash": machine.flash, "cudnn": machine.cudnn}.get(name, True), "this build of torch is without it"),
        (
            machine.capability < (8, 0) or (name == "fa3" and machine.capability[0] != 9),
            f"it needs compute capability {needed}, this GPU has {capability}",
        ),
        (dtype not in {torch.bfloat16, torch.float16}, f"it needs bfloat16 or float16, not {dtype}"),
        (
            head_dim % 8 != 0 or head_dim > widest,
            f"it needs heads of a multiple of 8 up to {widest} channels, not {head_dim}",
        ),
    ]
    return next((reason for applies, reason in checks if applies), None)


def candidates(request: str, machine: Machine, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    """Return the kernels to try, best first.

    ``auto`` is FlashAttention-3, cuDNN, torch's FlashAttention, plain arithmetic; cuDNN leads only on Hopper, since
    elsewhere torch's FlashAttention is said to be faster (huggingface/transformers pull 48163).

    Raises:
        TalkbenchError: If `request` is unknown or cannot run; the message lists what can.
    """
    can_run = [name for name in NAMES if obstacle(name, machine, dtype, head_dim) is None]
    if request == "auto":
        order = ("fa3", "cudnn", "flash", "math") if machine.capability[0] == 9 else ("flash", "cudnn", "math")
        return tuple(name for name in order if name in can_run)
    if request in can_run:
        return (request,)
    reason = obstacle(request, machine, dtype, head_dim) if request in NAMES else f"kernels are {', '.join(NAMES)}"
    raise TalkbenchError(
        f"attention kernel {request!r} cannot be used: {reason}. Available here: {', '.join(can_run)}. "
        "Set `attention` to one of these or to auto."
    )


def choose_kernel(request: str = "auto", *, device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernel:
    """Return the kernel to use, after a check against plain arithmetic, and log its name.

    Args:
        request: ``auto`` or one of `NAMES`. A kernel that ``auto`` prefers but that fails its check is reported as a
            warning and passed over; one asked for by name is refused.
        device: Where it will run.
        dtype: Of queries, keys and values.
        head_dim: Channels per head.

    Raises:
        TalkbenchError: If `request` cannot be met; the message says why and what is there.
    """
    names = candidates(request, survey(device), dtype, head_dim)
    for name in names:
        try:
            kernel = make_kernel(name)
            check_kernel(kernel, device=device, dtype=dtype, head_dim=head_dim)
        except (TalkbenchError, RuntimeError, TypeError, ValueError, ImportError, AttributeError) as error:
            if request != "auto" or name == names[-1]:
                raise TalkbenchError(f"attention kernel {name!r} fails its check on {device}: {error}") from error
            logger.warning("attention kernel %s fails its check on %s and is passed over: %s", name, device, error)
            continue
        logger.info("attention kernel: %s (%s, %s, asked for: %s)", name, device, dtype, request)
        return kernel
    raise AssertionError("plain arithmetic can always run")
