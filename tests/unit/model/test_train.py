"""The training loop: it goes on where it was, starts from what it is told, and refuses what cannot work."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from model import checkpoint, infer, initial
from model import train as program
from model.conditioning import audio, image, text
from model.data.dataset import Dataset
from model.parallel import shard
from model.pipeline import build
from model.training import checkpoints, starting
from model.training.conditions import Velocity, given, windows
from model.training.config import DistillConfig
from model.training.recipes import RECIPES, changed, train_recipe
from model.training.stages import Place
from model.training.starting import Job
from model.training.watch import TrainingStopped, Watch
from talkbench import atomic
from talkbench.errors import Interrupted, PrerequisiteError, TalkbenchError
from tests.unit.model import mini_train as mini
from tests.unit.model import processes
from tests.unit.model import tiny_training as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def clips(folder: Path) -> Path:
    return mini.write_clips(folder / "clips")


@pytest.fixture(scope="module")
def held_out(folder: Path) -> Path:
    return mini.write_clips(folder / "held-out", 2, first=20)


@pytest.fixture(scope="module")
def sft(clips: Path, held_out: Path, folder: Path) -> Job:
    """An undisturbed run of stage 1."""
    job = Job(mini.sft_mini(), clips, folder / "sft", held_out)
    program.train(job)
    return job


@pytest.fixture(scope="module")
def distill(sft: Job, folder: Path) -> Job:
    """An undisturbed run of stage 2."""
    job = Job(mini.distill_mini(), sft.data, folder / "distill", init=sft.out)
    program.train(job)
    return job


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command line with the small recipes; errors come out as they are."""
    for name, recipe in mini.MINI.items():
        monkeypatch.setitem(RECIPES, name, recipe)

    def invoke(*arguments: object) -> str:
        result = CliRunner().invoke(program.app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    yield invoke


def weights(job: Job, *, averaged: bool = False, step: int = mini.STEPS) -> dict[str, torch.Tensor]:
    """Return the generator that a run saved."""
    net = shard.distribute(tiny.velocity(9), job.recipe, None, tiny.CPU, trained=False)
    checkpoints.load_weights(job.out / f"step-{step}", net, job.recipe, "generator", averaged=averaged)
    return dict(net.named_parameters())


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(sft: Job, tmp_path: Path) -> None:
    job = replace(sft, out=tmp_path / "run")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(processes.PRELOAD)
    killed = context.Process(target=mini.train_and_die, args=(job, 3))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert checkpoints.find(job.out).name == "step-2"
    program.train(job)
    assert mini.bytes_of(job.out) == mini.bytes_of(sft.out)
    assert mini.told(job.out) == mini.told(sft.out)


def test_a_full_disk_leaves_the_checkpoint_before_from_which_the_same_bytes_come(
    sft: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(sft, out=tmp_path / "run")
    write = checkpoints.FileSystemWriter.write_data

    def fail(self: Any, *args: Any) -> Any:
        if "step-4" in str(self.path):
            raise OSError(28, "No space left on device")
        return write(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.FileSystemWriter, "write_data", fail)
        with pytest.raises(PrerequisiteError, match=r"step 4 could not be saved.*No space left.*step-2 is as it was"):
            program.train(job)
    program.train(job)
    assert mini.bytes_of(job.out) == mini.bytes_of(sft.out)


def test_an_interrupted_distillation_goes_on_and_ends_with_the_same_bytes(
    distill: Job, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("--recipe", "distill_mini", "--data", distill.data, "--init", distill.init, "--out", out)

    def press(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        told = Watch.step
        patched.setattr(Watch, "step", lambda self, step, *a, **k: (press if step == 3 else told)(self, step, *a, **k))
        with pytest.raises(Interrupted, match="goes on from the last checkpoint"):
            run(*command)
    assert checkpoints.find(out).name == "step-2"
    run(*command)
    assert mini.bytes_of(out) == mini.bytes_of(distill.out)
    assert mini.told(out) == mini.told(distill.out)


def test_a_finished_run_does_nothing_but_export_again(sft: Job) -> None:
    before, told = mini.bytes_of(sft.out), mini.told(sft.out)
    shutil.rmtree(sft.out / "export")
    program.train(sft)
    assert (mini.bytes_of(sft.out), mini.told(sft.out)) == (before, told)
    assert (sft.out / "export").is_dir()


def train_as_one_of(rank: int, size: int, job: Job) -> None:
    """Train as one of several processes, the last of which is killed after the first checkpoint."""
    if rank == size - 1:
        mini.train_and_die(job, mini.SAVE_EVERY)
    program.train(job)


def test_two_processes_distil_what_one_does_and_one_goes_on_when_the_other_is_killed(
    distill: Job, tmp_path: Path
) -> None:
    job = replace(distill, out=tmp_path / "run")
    survivor, killed = processes.outcomes(train_as_one_of, 2, tmp_path, job, timeout_seconds=600)
    assert isinstance(survivor, processes.RankError) and "did not finish" not in str(survivor)
    assert f"exit code {-signal.SIGKILL}" in str(killed)
    assert checkpoints.find(job.out).name == "step-2"
    assert len(mini.bytes_of(job.out, mini.SAVE_EVERY)) == 2
    program.train(job)
    assert difference(weights(job), weights(distill)) < 1e-12
    assert difference(weights(job), weights(distill, step=mini.SAVE_EVERY)) > 1e-5, "the last steps did nothing"
    for ours, theirs in zip(mini.told(job.out), mini.told(distill.out), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_stage_2_starts_from_a_run_a_checkpoint_or_an_export(sft: Job, distill: Job, tmp_path: Path) -> None:
    recipe = replace(distill.recipe, stage=replace(distill.recipe.stage, steps=1))
    lines = {}
    for init in (sft.out, sft.out / "step-4", sft.out / "export"):
        job = replace(distill, recipe=recipe, out=tmp_path / init.name, init=init)
        program.train(job)
        (lines[init.name],) = mini.told(job.out)
    assert lines["step-4"] == lines["sft"] == mini.told(distill.out)[0]
    # The export is rounded to half precision, and holds averages.
    assert lines["export"] == pytest.approx(lines["sft"], rel=0.05)
    assert lines["export"] != lines["sft"]


def test_the_export_is_the_averaged_generator_and_the_pipeline_loads_it(sft: Job) -> None:
    model = build(tiny.MODEL, sft.out / "export")
    loaded, averages = Velocity(model.dit), weights(sft, averaged=True)
    halved = {name: weight.half().double() for name, weight in averages.items()}
    assert difference(dict(loaded.named_parameters()), halved) == 0
    assert difference(weights(sft), averages) > 1e-5, "averages are the weights"
    sample, x_CThw = tiny.sample(), tiny.normal(*tiny.MODEL.latent_shape, seed=5)
    known, heard_PFWLC = given(sample, tiny.CPU, torch.float64), windows(sample, 0, sft.recipe)
    net = tiny.velocity(0)
    net.load_state_dict(averages)
    ours, theirs = (known.ask(each, x_CThw, 0.7, heard_PFWLC) for each in (loaded, net))
    assert torch.allclose(ours, theirs, rtol=0.01, atol=0.01)


def test_the_loss_on_held_out_clips_is_told_with_every_checkpoint(sft: Job) -> None:
    lines = mini.told(sft.out)
    assert ["held_out_loss" in line for line in lines] == [False, True, False, True]
    assert lines[3]["held_out_loss"] < lines[1]["held_out_loss"]


def test_held_out_clips_are_looked_at_in_the_same_way_whatever_the_seed(sft: Job, tmp_path: Path) -> None:
    still = replace(sft.recipe.stage, steps=1, optimizer=replace(mini.FAST, rate=0.0))
    losses = []
    for seed in (0, 1):
        job = replace(sft, recipe=replace(sft.recipe, stage=still, seed=seed), out=tmp_path / str(seed))
        program.train(job)
        losses.append(mini.told(job.out)[0])
    assert losses[0]["held_out_loss"] == losses[1]["held_out_loss"]
    assert losses[0]["loss"] != losses[1]["loss"]


def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_batch(clips: Path, tmp_path: Path, run: Any) -> None:
    with pytest.raises(TrainingStopped, match=r"step 1 of sft_mini: .* is (nan|inf)"):
        run("--recipe", "sft_mini", "--data", clips, "--out", tmp_path, "--set", "stage.optimizer.rate=1e300")
    bad = tmp_path / "bad-step-1"
    record = json.loads((bad / "rank-0.json").read_text())
    assert len(record["samples"]) == 4
    assert set(record["samples"]) <= {entry.id for entry in Dataset(clips).entries}
    assert (bad / "rank-0.safetensors").is_file()
    assert not (tmp_path / checkpoints.LATEST).exists()


def test_a_run_goes_on_with_a_lower_rate(sft: Job, tmp_path: Path) -> None:
    job = replace(sft, out=shutil.copytree(sft.out, tmp_path / "run"))
    slower = replace(sft.recipe.stage, steps=mini.STEPS + 1, optimizer=replace(mini.FAST, rate=0.0))
    program.train(replace(job, recipe=replace(job.recipe, stage=slower)))
    assert difference(weights(job, step=mini.STEPS + 1), weights(job)) == 0


def test_another_length_is_refused_where_the_rate_falls_towards_the_end(clips: Path, tmp_path: Path) -> None:
    falling = replace(mini.sft_mini().stage, steps=2, optimizer=replace(mini.FAST, decay_from=0.5))
    job = Job(replace(mini.sft_mini(), stage=falling), clips, tmp_path)
    program.train(job)
    program.train(job)
    longer = replace(job.recipe, stage=replace(falling, steps=3))
    with pytest.raises(TalkbenchError, match="is of a run of 2 steps.* Choose another --out, or .*--steps 2"):
        program.train(replace(job, recipe=longer))


def test_a_second_run_in_the_same_folder_is_refused_and_leaves_the_first_alone(sft: Job, tmp_path: Path) -> None:
    job = replace(sft, out=tmp_path)
    (tmp_path / "step-2.partial").mkdir()
    with atomic.lock(tmp_path / program.LOCK, wait=False), pytest.raises(TalkbenchError, match="another training"):
        program.train(job)
    assert sorted(path.name for path in tmp_path.iterdir()) == [program.LOCK, "step-2.partial"]


def test_the_average_follows_updates_of_the_generator_not_steps_without_one(
    distill: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[Any] = []
    monkeypatch.setattr(program.Ema, "update", lambda _, net: followed.append(net))
    program.train(replace(distill, recipe=replace(distill.recipe, ema_decay=0.5), out=tmp_path))
    assert len(followed) == mini.STEPS // 2


def test_stage_2_loads_of_the_encoders_the_autoencoder_alone(distill: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((audio, "SpeechEncoder"), (text, "TextEncoder"), (image, "ImageEncoder")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("an encoder is made"))
    starting.begin(distill, Dataset(distill.data), Place(0, 1, tiny.CPU))


def test_terms_that_are_not_the_reports_are_told_where_they_count(distill: Job, tmp_path: Path) -> None:
    stage = replace(distill.recipe.stage, steps=1, motion_alignment=0.5)
    program.train(replace(distill, recipe=replace(distill.recipe, stage=stage), out=tmp_path))
    (line,) = mini.told(tmp_path)
    assert line["generator_motion_alignment"] > 0
    assert "generator_background_consistency" not in line


def test_an_export_that_cannot_be_written_leaves_the_one_before(
    sft: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(sft, out=shutil.copytree(sft.out, tmp_path / "run"))
    before = sorted(path.name for path in (job.out / "export").rglob("*"))

    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(program.checkpoint, "save_file", fail)
    with pytest.raises(
        PrerequisiteError, match="could not be exported to .*export: .*No space.*same command exports again"
    ):
        program.train(job)
    assert sorted(path.name for path in (job.out / "export").rglob("*")) == before


def test_the_export_shows_the_encoders_of_the_folder_that_is_looked_for_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    initial.write(tiny.MODEL, Path("weights"), seed=4)
    model = replace(tiny.MODEL, weights_seed=None)
    exported = program._export(tiny.velocity(7), Job(replace(mini.sft_mini(), model=model), Path("data"), Path("run")))
    files = checkpoint.locate(exported)
    assert files.vae.resolve() == checkpoint.locate(None).vae.resolve()
    build(model, exported)


def test_a_model_that_a_cpu_cannot_hold_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program.serving, "free_host_bytes", lambda: 16_000_000_000)
    job = Job(train_recipe("sft_14b"), tmp_path / "none", tmp_path / "run")
    with pytest.raises(PrerequisiteError, match=r"sft_14b needs about \d+ GB .*16 GB are free. Add --device cuda"):
        program.train(job)
    assert "sft_14b: of this machine's memory, about" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_changed_model_is_refused_by_the_name_of_the_field(sft: Job, distill: Job) -> None:
    deeper = replace(tiny.MODEL, dit=replace(tiny.MODEL.dit, num_layers=3))
    for job in (sft, distill):
        with pytest.raises(TalkbenchError, match="model.dit.num_layers is 2 there and 3 here"):
            program.train(replace(job, recipe=replace(job.recipe, model=deeper)))


def test_a_resume_with_other_clips_or_another_teacher_is_refused(sft: Job, distill: Job, tmp_path: Path) -> None:
    others = mini.write_clips(tmp_path / "others", first=40)
    with pytest.raises(TalkbenchError, match="was begun with another --data"):
        program.train(replace(sft, data=others))
    with pytest.raises(TalkbenchError, match="was begun with another --init"):
        program.train(replace(distill, init=distill.out))


def test_clips_of_other_encoders_are_refused_with_the_command(sft: Job, tmp_path: Path) -> None:
    others = mini.write_clips(tmp_path / "others", vae="0" * 64)
    with pytest.raises(TalkbenchError, match=f"vae differ. Prepare it again: `{mini.COMMAND}"):
        program.train(replace(sft, data=others, out=tmp_path / "run"))


def test_clips_too_short_for_the_roll_outs_are_refused_before_the_first_step(distill: Job, tmp_path: Path) -> None:
    short = mini.write_clips(tmp_path / "short", chunks=1)
    with pytest.raises(TalkbenchError, match="cover 1 chunks, and distill_mini rolls out 2.*--chunks 2"):
        program.train(replace(distill, data=short, out=tmp_path / "run"))


@pytest.mark.parametrize("init", [None, "absent"])
def test_stage_2_without_a_stage_1_names_the_command_that_makes_one(
    init: str | None, clips: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--init", init) if init else ()
    with pytest.raises(TalkbenchError, match=r"python -m model.train --recipe sft_mini .* --out runs/sft_mini"):
        run("--recipe", "distill_mini", "--data", clips, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_stage_2_takes_the_run_of_stage_1_that_is_where_it_would_be(
    sft: Job, distill: Job, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/sft_mini").symlink_to(sft.out)
    told = run("--recipe", "distill_mini", "--data", sft.data)
    assert "--weights-dir runs/distill_mini/export --image face.png --audio speech.wav --out talk.mp4" in told
    assert mini.bytes_of(Path("runs/distill_mini")) == mini.bytes_of(distill.out)


def test_what_stage_2_cannot_tell_is_refused(distill: Job, held_out: Path, tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="--held-out is looked at in stage 1"):
        program.train(replace(distill, held_out=held_out, out=tmp_path))


def test_processes_that_cannot_share_a_step_are_refused(sft: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TalkbenchError, match="4 clips per step, which 3 processes cannot share evenly"):
        program.train(sft)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage.chunk=3", "stage.chunk: no field 'chunk'; there is: .*chunks"),
        ("stage.chunks", "expected FIELD=VALUE"),
        ("stage.batch=many", "stage.batch: 'many' is not of the kind of 2"),
        ("stage.batch=0", "stage.batch: batch is 0; expected 1 or more"),
        ("stage.generator.rate=abc", "stage.generator.rate: 'abc' is not of the kind of 0.001"),
        ("stage.generator.rate=-1", "stage.generator.rate: rate is -1.0; expected 0 or more"),
        ("stage.generator.rate=.nan", "rate is nan"),
        ("stage.generator.betas=[0.9]", "stage.generator.betas: betas is .*; expected two below 1"),
        ("stage.generator.betas=[0.9, 1]", "expected two below 1"),
        ("stage.generator.decay_from=2", "decay_from is 2.0; expected a share between 0 and 1"),
        ("stage.motion_source=truth", "motion_source is 'truth'; expected predicted or ground truth"),
        ("stage.chunks=[1", r"stage.chunks: '\[1' cannot be read as YAML"),
        ("stage.chunks=0", "chunks is 0; expected random, or 1 or more"),
        ("stage.times=[0.9, 0.1]", "times is .*; expected two between 0 and 1, in order"),
        ("stage.generator_every=0", "generator_every is 0"),
        ("precision=float16", "precision is 'float16'; expected bfloat16 or float32 or float64"),
        ("save_every=0", "save_every is 0"),
        ("keep_last=0", "keep_last is 0"),
        ("ema_decay=2", "ema_decay: ema_decay is 2.0; expected null, or 0 or more and less than 1"),
        ("seed=-1", "seed is -1"),
    ],
)
def test_a_field_that_is_not_there_or_a_value_out_of_its_range_is_refused_by_name(
    change: str, message: str, run: Any
) -> None:
    with pytest.raises(TalkbenchError, match=message):
        run("--recipe", "distill_mini", "--set", change)


def test_whole_numbers_are_taken_where_others_are_expected() -> None:
    found = changed(mini.distill_mini(), {"stage.times": "[0, 1]", "stage.fake.rate": "1", "ema_decay": "0"})
    assert isinstance(found.stage, DistillConfig)
    assert [type(each) for each in (*found.stage.times, found.stage.fake.rate, found.ema_decay)] == [float] * 4


def test_a_dry_run_tells_fields_and_memory_and_loads_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "train", lambda _: pytest.fail("a dry run trains"))
    told = run("--recipe", "distill_14b", "--gpus", 32, "--gpu-gigabytes", 96, "--set", "stage.chunks=3", "--dry-run")
    assert "weights, gradients, moments" in told
    assert '"stage.chunks": 3' in told
    assert list(tmp_path.iterdir()) == []


def test_recipes_that_are_not_of_the_tiny_world_need_data(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TalkbenchError, match="sft_14b needs data"):
        run("--recipe", "sft_14b")


def test_clips_of_the_tiny_world_are_drawn_the_first_time_they_are_missing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program.drawn_world, "SIDE", tiny.MODEL.stream.height)
    drawn: list[list[str]] = []

    def draw(command: list[str]) -> None:
        drawn.append(command)
        mini.write_clips(Path(command[-1]))

    monkeypatch.setattr(program.prepare, "main", draw)
    for steps in (1, 2):
        run("--recipe", "sft_mini", "--steps", steps)
    ((jobs, _, *command),) = drawn
    assert (jobs, command) == ("--jobs", ["--source", "tiny", "--recipe", "test", "--out", "data/tiny"])
    assert [line["step"] for line in mini.told(Path("runs/sft_mini"))] == [0, 1]


@pytest.mark.parametrize("module", [program, infer])
def test_the_help_shows_commands_as_they_are_typed(module: Any) -> None:
    told = CliRunner().invoke(module.app, ["--help"]).output
    for line in (module.__doc__ or "").splitlines():
        if line.startswith("    "):
            assert line.strip() in told
