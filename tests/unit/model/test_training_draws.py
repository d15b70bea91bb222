"""Draws depend on names only, are even, and agree between ranks or stop them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import torch
from scipy.stats import chisquare, kstest

from model.training.draws import Draws, noise, require_same_on_all_ranks
from talkbench.errors import TalkbenchError
from tests.unit.model import processes

CPU = torch.device("cpu")
STEPS = range(4000)


def test_a_draw_is_a_function_of_seed_step_micro_step_and_name() -> None:
    drawn = Draws(1, 2, 3).uniform("time")
    assert drawn == Draws(1, 2, 3).uniform("time")
    others = [Draws(0, 2, 3), Draws(1, 0, 3), Draws(1, 2, 0), Draws(1, 2, "3"), Draws(1, 23, 3)]
    assert len({drawn, Draws(1, 2, 3).uniform("tome"), *(other.uniform("time") for other in others)}) == 7


def test_numbers_stay_what_they_were_so_that_old_runs_can_be_repeated() -> None:
    assert Draws(0, 17, 0).uniform("time") == 0.9417042690160392
    assert noise(0, 17, "clip-a", 3, (2,), CPU, torch.float64).tolist() == pytest.approx(
        [-1.7092572494423282, -1.9545790123990552], abs=1e-12
    )


def test_a_clips_draws_do_not_depend_on_the_micro_step_it_falls_into() -> None:
    assert Draws(0, 5, 0).of("a") == Draws(0, 5, 7).of("a") != Draws(0, 5, 0).of("b")


def test_every_pair_of_chunks_and_exit_step_is_as_likely_as_every_other() -> None:
    pairs = Counter(
        (Draws(0, step, 0).integer("chunks", 1, 5), Draws(0, step, 0).integer("exit step", 1, 4)) for step in STEPS
    )
    assert sorted(pairs) == [(k, exit_step) for k in range(1, 6) for exit_step in range(1, 5)]
    assert chisquare(list(pairs.values())).pvalue > 0.01


def test_uniform_draws_fill_the_interval_evenly_and_are_not_alike_from_step_to_step() -> None:
    drawn = [Draws(0, step, 0).uniform("time") for step in STEPS]
    assert kstest(drawn, "uniform").pvalue > 0.01
    assert 0 <= min(drawn) < max(drawn) < 1
    assert abs(fmean((a - 0.5) * (b - 0.5) for a, b in pairwise(drawn))) < 0.005


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="chunks: no whole number lies between 2 and 1"):
        Draws(0, 0, 0).integer("chunks", 2, 1)


def test_noise_is_normal_and_differs_by_seed_step_clip_and_number() -> None:
    keys = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    drawn = torch.stack([noise(*key, (4, 500), CPU, torch.float64).flatten() for key in keys])
    assert torch.equal(drawn[0], noise(*keys[0], (4, 500), CPU, torch.float64).flatten())
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01
    assert (torch.corrcoef(drawn) - torch.eye(len(keys))).abs().max() < 0.1


def test_noise_of_less_precision_is_the_same_noise_rounded() -> None:
    exact, coarse = (noise(0, 0, "a", 0, (3, 5), CPU, dtype) for dtype in (torch.float64, torch.float32))
    assert torch.equal(exact.float(), coarse)


def decide(rank: int, num_processes: int, seeds_of_ranks: list[list[int]]) -> list[str]:
    """Compare what ranks draw, once for each row of their seeds; return each refusal, or nothing."""
    refusals = []
    for seeds in seeds_of_ranks:
        try:
            require_same_on_all_ranks(exit_step=2, chunks=Draws(seeds[rank], 0, 0).integer("chunks", 1, 5))
            refusals.append("")
        except TalkbenchError as error:
            refusals.append(str(error))
    return refusals


def test_ranks_that_draw_different_chunks_are_stopped_before_they_wait_for_each_other(tmp_path: Path) -> None:
    first, second = (Draws(seed, 0, 0).integer("chunks", 1, 5) for seed in (0, 1))
    assert first != second
    for agreeing, differing in processes.run(decide, 2, tmp_path, [[3, 3], [0, 1]]):
        assert agreeing == ""
        assert f"ranks 0 to 1 drew chunks = [{first}, {second}]; they must agree" in differing


def test_one_process_has_nobody_to_compare_with() -> None:
    require_same_on_all_ranks(chunks=4)
