"""Networks in training, spread over processes: weights, gradients and moments in equal parts, gathered block by block.

    mesh = connect(device)                                   # None without torchrun
    with torch.device("meta"):
        net = Velocity(DiT(recipe.model.dit))
    net = distribute(net, recipe, mesh, device, trained=True)
    load_released(net, folder)

What is particular:
- the root and every block is sharded by itself; a block makes its keys, values and modulation inside its own forward
  (`DiT.velocity`), the only time its weights are whole;
- everything is sharded again after a forward, the root too: roll-outs run forwards that no backward follows, and whole
  weights left behind by one would be out of date after the next update;
- weights are float32, passes run in the recipe's precision, gradients are summed in float32. Inputs are not cast, since
  times and modulation are computed in float32;
- networks that take turns do not share streams (`share_comm_ctx`): in torch 2.13 a backward pass of one then fails
  after forwards of another that no backward followed;
- a gradient is the *mean* over processes: each one's loss is the mean over its own clips.

Source: FSDP2, `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from .. import accelerate, checkpoint
from ..training.conditions import Velocity
from ..training.config import TrainRecipe
from .mesh import TIMEOUT, launched

WHOLE_GRADIENT_BYTES = 4e9
"""Gradients up to this size wait whole for the last micro-step; those of 18.9 B parameters would take 76 GB."""
_BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}


def connect(device: torch.device) -> DeviceMesh | None:
    """Join the processes that torchrun started, all in one row; None if it started none."""
    if launched() is None and not dist.is_initialized():
        return None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(_BACKENDS[device.type], timeout=TIMEOUT)
    return _row(device)


def _row(device: torch.device) -> DeviceMesh:
    """Return all processes; the group is the one that is there, whose timeout is ours."""
    group = dist.group.WORLD
    assert group is not None  # noqa: S101 - says so to the type checker
    return DeviceMesh.from_group(group, device.type)


def _alone(device: torch.device) -> DeviceMesh:
    """Return a mesh of this process: sharding over one still keeps float32 weights beside bfloat16 passes."""
    if not dist.is_initialized():
        dist.init_process_group(_BACKENDS[device.type], store=HashStore(), rank=0, world_size=1, timeout=TIMEOUT)
    return _row(device)


def distribute(
    net: Velocity, recipe: TrainRecipe, mesh: DeviceMesh | None, device: torch.device, *, trained: bool
) -> Velocity:
    """Return the network, changed in place, ready for the passes of a recipe.

    Without a mesh, in the precision of its weights and not offloaded, it stays a plain module and needs no processes.

    Args:
        net: Whole and equal on all processes, or on the meta device: then it gets memory, not yet filled.
        recipe: Says precision, recomputing, offloading and compiling.
        mesh: Of `connect`.
        device: Where this process computes.
        trained: Whether it gets gradients; one that does not is kept in the precision of its passes.
    """
    dtype: torch.dtype = getattr(torch, recipe.precision)
    reduced = dtype == torch.bfloat16
    net.to(torch.float32 if trained and reduced else dtype).requires_grad_(trained).eval()
    net.dit.recompute = trained and recipe.checkpoint_activations
    if recipe.compile:
        accelerate.compile_blocks(net.dit)
    empty = net.dit.device.type == "meta"
    if mesh is None and not reduced and not recipe.offload:
        return net.to_empty(device=device) if empty else net
    mesh = mesh or _alone(device)
    policy = MixedPrecisionPolicy(
        param_dtype=dtype if reduced else None,
        reduce_dtype=torch.float32 if reduced else None,
        cast_forward_inputs=False,
    )
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if recipe.offload else OffloadPolicy()
    for module in (*net.dit.each_block(), net):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy, offload_policy=offload)
    return net.to_empty(device="cpu" if recipe.offload else device) if empty else net


def load_released(net: Velocity, folder: Path) -> None:
    """Give a distributed network the weights of a folder; every process keeps its own part of each tensor.

    Args:
        net: Of `distribute`.
        folder: As `checkpoint.load_dit` reads it.

    Raises:
        BadWeights: If a file is absent or damaged, or names or shapes differ.
        TalkbenchError: If `config.json` describes another network.
    """
    checkpoint.load_dit(net.dit, folder, _put)


def _put(parameter: Tensor, whole: Tensor) -> None:
    """Copy the rows that are this process's: FSDP gives each the next of equal shares, rounded up (`torch.chunk`)."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(whole)
        return
    mesh, own = parameter.device_mesh, parameter.to_local()
    share = ceil(len(whole) / mesh.size())
    own.copy_(whole[mesh.get_rank() * share :][: len(own)])


def synchronise(net: Velocity, *, last: bool) -> None:
    """Say, before a micro-step, whether it is the last before an update: until then, small gradients are not exchanged.

    Large ones always are, since whole ones would not fit beside the weights.
    """
    if isinstance(net, FSDPModule):
        whole_bytes = sum(parameter.numel() * 4 for parameter in net.parameters())
        net.set_requires_gradient_sync(last or whole_bytes > WHOLE_GRADIENT_BYTES)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharing its memory; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(net: nn.Module, max_norm: float) -> float:
    """Scale a network's gradients so that their joint norm is at most `max_norm`; return the norm before.

    Unlike `torch.nn.utils.clip_grad_norm_` it also takes gradients that are offloaded: the sum over processes is one
    number, exchanged where the processes compute. A norm that is not finite scales nothing.

    Raises:
        ValueError: If there are no gradients.
    """
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    if not gradients:
        raise ValueError("there are no gradients to clip: call it after the backward pass")
    parts = [local(gradient) for gradient in gradients]
    square = torch.stack([part.double().square().sum() for part in parts]).sum()
    first = gradients[0]
    if isinstance(first, DTensor):
        square = square.to(first.device_mesh.device_type)
        dist.all_reduce(square, group=first.device_mesh.get_group())
    norm = float(square.sqrt())
    if max_norm < norm < float("inf"):
        torch._foreach_mul_(parts, max_norm / norm)
    return norm
