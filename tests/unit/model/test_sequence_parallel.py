"""Attention over tokens spread over processes equals attention in one process.

Every world of processes is started once and does all its checks; the tests then look at what it found.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.config import DiTConfig, ParallelConfig
from model.kernels import FlashKernel, MathKernel
from model.parallel.emulate import EmulatedRank
from model.parallel.mesh import check_degrees, connect, local_device, together
from model.parallel.ring import merge
from model.parallel.sequence import (
    SequenceParallel,
    initialise,
    pack_heads,
    shard_bounds,
    shard_sizes,
    unpack_heads,
)
from talkbench.errors import TalkbenchError
from tests.unit.model.processes import outcomes, run

CPU = torch.device("cpu")
FP32, FP64, BF16 = torch.float32, torch.float64, torch.bfloat16


def draw(num_tokens: int, heads: int, dtype: torch.dtype, count: int = 4, width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [torch.randn(2, num_tokens, heads, width, generator=generator, dtype=FP64).to(dtype) for _ in range(count)]


def attention(q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
    """One process's attention, straight from torch."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd))).transpose(1, 2)


def member(ulysses: int, ring: int = 1) -> SequenceParallel:
    return SequenceParallel(connect(ParallelConfig(ulysses=ulysses, ring=ring), CPU), FlashKernel())


# Shards, without processes.


@pytest.mark.parametrize("num_shards", range(1, 9))
def test_shards_cover_all_tokens_once_in_order_and_differ_by_at_most_one(num_shards: int) -> None:
    for num_tokens in {*range(num_shards, 4 * num_shards + 2), 1170, 10530, 12096}:
        x_BND = torch.arange(2 * num_tokens).view(2, num_tokens, 1)
        shards = [x_BND[:, slice(*shard_bounds(num_tokens, num_shards, rank))] for rank in range(num_shards)]
        assert torch.equal(torch.cat(shards, 1), x_BND)
        assert [shard.shape[1] for shard in shards] == shard_sizes(num_tokens, num_shards)
        assert max(shard_sizes(num_tokens, num_shards)) - min(shard_sizes(num_tokens, num_shards)) <= 1


def test_the_clip_of_the_report_has_two_larger_shards_on_eight_gpus() -> None:
    assert shard_sizes(10530, 8) == [1317, 1317, 1316, 1316, 1316, 1316, 1316, 1316]


def test_fewer_tokens_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens cannot be spread over 4 processes"):
        shard_sizes(3, 4)


@pytest.mark.parametrize("ulysses", range(1, 9))
def test_packing_heads_for_the_exchange_and_unpacking_is_the_identity(ulysses: int) -> None:
    x_XBnAd = torch.randn(3, 2, 5, 2 * ulysses, 4)
    rows = pack_heads(x_XBnAd, ulysses)
    assert torch.equal(unpack_heads(rows, ulysses), x_XBnAd)
    for peer in range(ulysses):
        assert torch.equal(rows[5 * peer], x_XBnAd[:, :, 0, 2 * peer : 2 * peer + 2])


@pytest.mark.parametrize("ulysses", range(1, 9))
def test_the_exchange_in_gives_each_process_all_tokens_of_its_heads_and_the_one_out_undoes_it(ulysses: int) -> None:
    num_tokens, heads = 3 * ulysses + 2, 2 * ulysses
    sizes = shard_sizes(num_tokens, ulysses)
    (x_BNAd,) = draw(num_tokens, heads, FP64, count=1)
    shards = x_BNAd.split(sizes, dim=1)
    sent = [pack_heads(shard[None], ulysses).split(size) for shard, size in zip(shards, sizes, strict=True)]
    received = [torch.cat([sent[peer][rank] for peer in range(ulysses)]) for rank in range(ulysses)]
    for rank, rows in enumerate(received):
        assert torch.equal(rows[:, 0].transpose(0, 1), x_BNAd[:, :, 2 * rank : 2 * rank + 2])
    back = [torch.cat([received[peer].split(sizes)[rank] for peer in range(ulysses)]) for rank in range(ulysses)]
    for rows, shard in zip(back, shards, strict=True):
        assert torch.equal(unpack_heads(rows, ulysses)[0], shard)


def test_merging_two_sets_of_keys_is_attention_over_both_even_when_one_has_all_the_weight() -> None:
    q, k, v, _ = draw(40, 2, FP64)
    for scale in (1.0, 300.0):
        parts = [MathKernel().with_lse(q * scale, k[:, keys], v[:, keys]) for keys in (slice(0, 13), slice(13, 40))]
        torch.testing.assert_close(
            merge(*parts[0], *parts[1]), MathKernel().with_lse(q * scale, k, v), rtol=1e-13, atol=1e-13
        )


# Worlds of processes.


def errors(parallel: SequenceParallel, num_tokens: int, heads: int, dtype: torch.dtype) -> dict[str, float]:
    """Return this rank's largest errors of output and gradients against one process on the same numbers."""
    q, k, v, grad = draw(num_tokens, heads, dtype)
    whole = [x.clone().requires_grad_() for x in (q, k, v)]
    expected = attention(*whole)
    expected.backward(grad)
    own = [parallel.shard(x).clone().requires_grad_() for x in (q, k, v)]
    out = parallel.attend(*own, num_tokens)
    out.backward(parallel.shard(grad))
    pairs = [(out, expected), *((mine.grad, all_.grad) for mine, all_ in zip(own, whole, strict=True))]
    return {
        name: (found - parallel.shard(right)).abs().max().item()
        for name, (found, right) in zip(("out", "q", "k", "v"), pairs, strict=True)
    }


CASES = [(FP32, 0), (FP32, 67), (FP32, 131), (FP64, 0), (FP64, 67), (BF16, 67)]


def check_world(rank: int, num_processes: int, heads: int, degrees: list[tuple[int, int]]) -> dict[str, Any]:
    """Do every check of one world; returns errors by degrees, dtype and token count."""
    found: dict[str, Any] = {}
    for ulysses, ring in degrees:
        parallel = member(ulysses, ring)
        for dtype, num_tokens in CASES:
            tokens = num_tokens or num_processes  # one token each
            found[f"U{ulysses}R{ring} {dtype} {tokens}"] = errors(parallel, tokens, heads, dtype)
        for num_tokens in (num_processes, 67, 10 * num_processes):
            (x_BNAd,) = draw(num_tokens, heads, FP32, count=1)
            assert torch.equal(parallel.gather(parallel.shard(x_BNAd), num_tokens), x_BNAd)
            own = parallel.shard(x_BNAd).clone().requires_grad_()
            (parallel.gather(own, num_tokens) * x_BNAd * (rank + 1)).sum().backward()
            weight = num_processes * (num_processes + 1) / 2
            torch.testing.assert_close(own.grad, parallel.shard(x_BNAd) * weight)
        start, stop = parallel.bounds(131)
        assert (
            parallel.attend(*(x[:, start:stop] for x in draw(131, heads, FP32, count=3)), 131).shape[1] == stop - start
        )
    return found


WORLDS = {
    2: (8, [(2, 1), (1, 2)]),
    4: (8, [(4, 1), (2, 2), (1, 4)]),
    5: (10, [(5, 1)]),
    8: (8, [(8, 1), (4, 2), (2, 4)]),
}


@pytest.mark.parametrize("num_processes", WORLDS)
def test_spread_attention_and_its_gradients_equal_one_process(num_processes: int, tmp_path: Path) -> None:
    heads, degrees = WORLDS[num_processes]
    found = run(check_world, num_processes, tmp_path, heads, degrees)
    assert len(found[0]) == len(CASES) * len(degrees)
    for key in found[0]:
        largest = {name: max(rank[key][name] for rank in found) for name in found[0][key]}
        if "R1 " in key:
            # Every head is computed by the same kernel from the same numbers: anything but 0 is a wrong order.
            assert set(largest.values()) == {0.0}, (key, largest)
        elif "float32" in key:
            assert largest["out"] <= 1e-6, (key, largest)
            assert max(largest.values()) <= 2e-6, (key, largest)
        elif "float64" in key:
            assert max(largest.values()) <= 1e-14, (key, largest)
        else:
            assert max(largest.values()) <= 4e-2, (key, largest)


def check_compiled(rank: int, num_processes: int) -> dict[str, float]:
    """Compare a compiled and an eager block around the exchange, forward and backward."""
    parallel, num_tokens = member(num_processes), 67

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return parallel.gather(parallel.attend(q * 2, k.sin(), v, num_tokens) + v, num_tokens)

    compiled = torch.compile(block, fullgraph=True, dynamic=False, backend="aot_eager")
    eager_in, compiled_in = ([parallel.shard(x).clone().requires_grad_() for x in draw(67, 4, FP32, 3)] for _ in "ab")
    eager_out, compiled_out = block(*eager_in), compiled(*compiled_in)
    eager_out.square().sum().backward()
    compiled_out.square().sum().backward()
    found = {"training": (eager_out - compiled_out).abs().max().item()}
    found["gradient"] = max((a.grad - b.grad).abs().max().item() for a, b in zip(eager_in, compiled_in, strict=True))
    with torch.no_grad():
        found["inference"] = (eager_out - compiled(*compiled_in)).abs().max().item()
    return found


def test_attention_with_its_exchange_compiles_into_one_graph_and_equals_eager(tmp_path: Path) -> None:
    for found in run(check_compiled, 2, tmp_path):
        assert max(found.values()) <= 1e-6, found


# Starting, refusing, stopping.


@pytest.mark.parametrize(
    ("started", "ulysses", "ring", "heads", "message"),
    [
        (4, 8, 1, 40, r"4 process\(es\) were started, but ulysses 8 x ring 1 needs 8\..*--nproc_per_node=8"),
        (8, 1, 1, 40, r"8 process\(es\) were started, but ulysses 1 x ring 1 needs 1"),
        (3, 3, 1, 40, "40 heads do not divide by a Ulysses degree of 3. On 3 processes use ulysses 1 x ring 3"),
        (6, 6, 1, 40, "use ulysses 2 x ring 3 or ulysses 1 x ring 6"),
        (0, 0, 1, 40, "ulysses 0 and ring 1; both must be at least 1"),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_the_command_that_does(
    started: int, ulysses: int, ring: int, heads: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(started))
    with pytest.raises(TalkbenchError, match=message):
        check_degrees(ParallelConfig(ulysses=ulysses, ring=ring), heads)


def start(parallel: ParallelConfig, kernel: FlashKernel, dit: DiTConfig | None = None) -> SequenceParallel | None:
    return initialise(parallel, device=CPU, dtype=FP32, dit=dit or DiTConfig(dim=64, num_heads=4), kernel=kernel)


def test_one_process_needs_no_group() -> None:
    assert start(ParallelConfig(), FlashKernel()) is None


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(TalkbenchError, match="process 2 on this machine has no GPU: 2 found.*--nproc_per_node=2"):
        local_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("cuda") == torch.device("cuda", 1)
    assert local_device("cpu") == CPU


class NoLogSumExp(FlashKernel):
    """Like yunchang's kernels without a log-sum-exp: silently wrong in a ring."""

    def with_lse(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = super().with_lse(*args)
        return out, torch.zeros_like(lse)


def message_of(function: Any, *args: Any) -> str:
    try:
        function(*args)
    except (TalkbenchError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def check_refusals(rank: int, num_processes: int) -> dict[str, str]:
    """Start in ways that fail on one rank or on all, in one world: a refusal must leave the groups usable."""
    broken = NoLogSumExp() if rank == 1 else FlashKernel()
    ring = ParallelConfig(ulysses=1, ring=2)
    found = {"too few": message_of(start, ParallelConfig(ulysses=4), FlashKernel())}
    found["one broken"] = message_of(start, ring, broken)
    found["different"] = message_of(start, ring, MathKernel() if rank else FlashKernel())
    parallel = start(ParallelConfig(ulysses=2), FlashKernel())
    assert parallel is not None
    assert (parallel.rank, parallel.size, parallel.group) == (rank, 2, dist.group.WORLD)
    q, k, v, _ = draw(9, 4, FP32)
    found["unsharded"] = message_of(parallel.attend, q, k, v, 9)
    found["heads"] = message_of(parallel.attend, *(parallel.shard(x)[:, :, :3] for x in (q, k, v)), 9)
    found["works"] = str(torch.equal(parallel.gather(parallel.shard(q), 9), q))
    found["together"] = str(together(lambda: rank))
    return found


def test_a_start_that_fails_on_one_process_fails_on_all_and_says_where(tmp_path: Path) -> None:
    first, second = run(check_refusals, 2, tmp_path)
    assert "2 process(es) were started, but ulysses 4 x ring 1 needs 4" in first["too few"]
    assert first["one broken"].startswith("TalkbenchError: process 1 failed: TalkbenchError: attention kernel")
    assert "log-sum-exp is off by" in second["one broken"]
    assert "different attention kernels (flash, math)" in first["different"] == second["different"]
    assert first["unsharded"] == "ValueError: process 0 got a shard of 9 tokens, expected 5"
    assert first["heads"] == "ValueError: 3 heads do not divide by a Ulysses degree of 2"
    assert (first["works"], first["together"]) == (second["works"], second["together"]) == ("True", "[0, 1]")


def check_death(rank: int, num_processes: int, ulysses: int) -> None:
    """Rank 1 dies between two attention calls."""
    parallel = member(ulysses, num_processes // ulysses)
    q, k, v = (parallel.shard(x) for x in draw(67, 4, FP32, count=3))
    parallel.attend(q, k, v, 67)
    if rank == 1:
        os._exit(9)
    parallel.attend(q, k, v, 67)


@pytest.mark.parametrize("ulysses", [4, 2, 1])
def test_when_a_process_dies_the_others_stop_with_an_error_within_seconds(ulysses: int, tmp_path: Path) -> None:
    began = time.monotonic()
    found = outcomes(check_death, 4, tmp_path, ulysses)
    assert time.monotonic() - began < 15
    assert "died with exit code 9" in str(found[1])
    assert all("Connection" in str(error) for rank, error in enumerate(found) if rank != 1)


# One rank without the others.


class Recording(FlashKernel):
    """Remembers the shapes that it was asked for."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.shapes += [tuple(q.shape), tuple(k.shape), tuple(v.shape)]
        return q


@pytest.mark.parametrize("num_processes", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("num_tokens", [40, 43, 46])
def test_an_emulated_rank_does_the_work_of_the_largest_shard(num_processes: int, num_tokens: int) -> None:
    kernel = Recording()
    rank = EmulatedRank(num_processes, kernel)
    whole = draw(num_tokens, 40, FP32, count=3)
    own = [rank.shard(x) for x in whole]
    assert own[0].shape[1] == -(-num_tokens // num_processes)
    out = rank.attend(*own, num_tokens)
    assert kernel.shapes == [(2, num_tokens, 40 // num_processes, 16)] * 3
    assert out.shape == own[0].shape
    assert rank.gather(own[0], num_tokens).shape == whole[0].shape
    assert (rank.rank, rank.size, rank.bounds(num_tokens)) == (0, num_processes, (0, own[0].shape[1]))
    if num_tokens % num_processes == 0:
        assert torch.equal(out, own[0])  # a permutation and its inverse


def test_one_emulated_process_computes_what_one_process_does() -> None:
    q, k, v, _ = draw(31, 4, FP32)
    assert torch.equal(EmulatedRank(1, FlashKernel()).attend(q, k, v, 31), attention(q, k, v))
