"""Bytes that a training recipe needs on each GPU, from its sizes alone: said, and refused, before anything is loaded.

    found = estimate(recipe, num_gpus=8, gpu_gigabytes=80)
    print(found.describe())
    found.refuse_if_too_big()

Estimates, not measurements. Source of the terms: ours; `model/README.md` lists what the report leaves open. What a
block keeps was counted from the tensors that autograd saves in one eager block of the 14B model (a compiled one keeps
less).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from talkbench.errors import PrerequisiteError

from .. import flops
from .. import memory as serving
from .config import DistillConfig, TrainRecipe

TRAINED_TENSORS = 4
"""Value, gradient and two moments of each weight that is trained, in float32 or better."""
GATHERED_BLOCKS = 3
"""Whole at once in the passes' precision: the one at work, the next, and the gradient of the last."""
KEPT_WIDE, KEPT, KEPT_HIDDEN = 11, 17, 2
"""Tensors that a block's backward pass needs: of the model's width in fp32 (norms, modulation, gates), of that width in
the passes' precision (inputs of products; queries, keys, values, outputs of attentions), and of the FFN's width."""
TIGHT = 0.9
"""Share of a GPU above which fragments of the allocator may be too many."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Estimate:
    """Bytes on each GPU, by what they hold.

    Attributes:
        recipe: What was estimated.
        num_gpus: Over which weights and moments are spread.
        gpu_gigabytes: Of each GPU.
        states: Weights, gradients and moments of trained networks, weights of the frozen one, averages; where they are
            offloaded they lie in host memory and count nothing here.
        inputs: Of every block, kept for the backward pass.
        gathered: Whole blocks.
        block: What one block keeps, or all of them without recomputing.
        autoencoder: Its weights, for roll-outs.
        decoding: Working memory of its largest call; over before a backward pass keeps anything.
        reserve: What the device keeps.
        host_bytes: In host memory, over all processes.
    """

    recipe: TrainRecipe
    num_gpus: int
    gpu_gigabytes: float
    states: int
    inputs: int
    gathered: int
    block: int
    autoencoder: int
    decoding: int
    reserve: int
    host_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by name, for a reader."""
        return {
            "weights, gradients, moments": self.states,
            "inputs of blocks": self.inputs,
            "gathered blocks": self.gathered,
            "what a block keeps": self.block,
            "autoencoder": self.autoencoder,
            "decoding, beyond a backward pass": max(0, self.decoding - self.inputs - self.block),
            "reserve": self.reserve,
        }

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether a GPU holds it."""
        return self.needed <= self.gpu_gigabytes * GIGABYTE

    @property
    def verdict(self) -> str:
        """Whether it fits, and if not, what would."""
        if self.fits:
            tight = self.needed > TIGHT * self.gpu_gigabytes * GIGABYTE
            return (
                "tight: fragments of the allocator may be too many; `--set offload=true` is safe" if tight else "fits"
            )
        advice = [] if (enough := self._enough_gpus()) is None else [f"{enough} GPUs of this size"]
        offloaded = self._variant(offload=True)
        if not self.recipe.offload and offloaded.fits:
            advice.insert(
                0, f"`--set offload=true`, with {offloaded.host_bytes / GIGABYTE:.0f} GB of host memory in all"
            )
        if not self.recipe.checkpoint_activations and self._variant(checkpoint_activations=True).fits:
            advice.insert(0, "`checkpoint_activations`")
        return "does not fit; needs " + (" or ".join(advice) if advice else "a smaller model or larger GPUs")

    def _variant(self, num_gpus: int | None = None, **changes: bool) -> Estimate:
        recipe = replace(self.recipe, **changes)  # type: ignore[arg-type]
        return estimate(recipe, num_gpus or self.num_gpus, self.gpu_gigabytes)

    def _enough_gpus(self) -> int | None:
        """Return the smallest doubling of the GPUs that fits; None if no number does."""
        counts = [self.num_gpus << doublings for doublings in range(1, 11)]
        return next((count for count in counts if self._variant(num_gpus=count).fits), None)

    def describe(self) -> str:
        """Return the parts, their sum and the verdict as lines."""
        width = max(map(len, self.parts))
        lines = [f"{self.recipe.name} on {self.num_gpus} GPU(s) of {self.gpu_gigabytes:g} GB, each (estimate):"]
        lines += [f"  {name:{width}} {size / GIGABYTE:7.2f} GB" for name, size in self.parts.items() if size]
        lines.append(f"  {'sum':{width}} {self.needed / GIGABYTE:7.2f} GB: {self.verdict}")
        if self.host_bytes:
            lines.append(f"  {'host memory, all':{width}} {self.host_bytes / GIGABYTE:7.2f} GB")
        return "\n".join(lines)

    def in_host_memory(self, processes_here: int, *, cuda: bool) -> int:
        """Return the bytes that one machine's processes need of its own memory: what is offloaded, on a CPU all.

        Args:
            processes_here: On the machine, of `num_gpus`.
            cuda: Whether they have a GPU each.
        """
        offloaded = self.host_bytes * processes_here // self.num_gpus
        return offloaded if cuda else offloaded + (self.needed - self.reserve) * processes_here

    def refuse_if_host_too_small(self, free_bytes: int, processes_here: int, *, cuda: bool) -> None:
        """Stop before anything is loaded.

        Args:
            free_bytes: Of the machine.
            processes_here: As for `in_host_memory`.
            cuda: As for `in_host_memory`.

        Raises:
            PrerequisiteError: If the machine has less memory; says how much is needed and what to do.
        """
        if (needed := self.in_host_memory(processes_here, cuda=cuda)) > free_bytes:
            advice = "Leave out offload=true, or spread it over more machines." if cuda else "Add --device cuda."
            raise PrerequisiteError(
                f"{self.recipe.name} needs about {needed / GIGABYTE:.0f} GB of this machine's memory for "
                f"{processes_here} process(es), and {free_bytes / GIGABYTE:.0f} GB are free. {advice}"
            )

    def refuse_if_too_big(self) -> None:
        """Stop before anything is loaded.

        Raises:
            PrerequisiteError: If it does not fit; says by how much and what would.
        """
        if not self.fits:
            raise PrerequisiteError(f"{self.describe()}\nStart again with what would fit.")


def estimate(recipe: TrainRecipe, num_gpus: int, gpu_gigabytes: float) -> Estimate:
    """Return what each of a recipe's GPUs needs, one clip at a time, everything sharded over all of them.

    Args:
        recipe: What is trained.
        num_gpus: Processes, one per GPU.
        gpu_gigabytes: Memory of each, in 1e9 bytes.

    Raises:
        ValueError: If there are no GPUs.
    """
    if num_gpus < 1:
        raise ValueError(f"{num_gpus} GPUs; expected 1 or more")
    model, size = recipe.model, serving.BYTES[recipe.precision]
    wide, config = max(size, serving.BYTES["float32"]), model.dit
    distilled = isinstance(recipe.stage, DistillConfig)
    weights = flops.parameters(model)
    trained, frozen = (2, 1) if distilled else (1, 0)
    states = weights["dit"] * (trained * TRAINED_TENSORS * wide + frozen * size)
    if recipe.ema_decay is not None:
        states += weights["dit"] * wide
    per_block = sum(
        count for name, count in flops.dit_parameters(config, model.vae).items() if name.startswith("block.")
    )
    token_bytes = config.dim * (KEPT * size + KEPT_WIDE * wide) + KEPT_HIDDEN * config.ffn_dim * size
    kept, recomputed = model.num_tokens * token_bytes, recipe.checkpoint_activations
    sharded = num_gpus > 1 or recipe.offload or size < wide
    return Estimate(
        recipe=recipe,
        num_gpus=num_gpus,
        gpu_gigabytes=gpu_gigabytes,
        states=0 if recipe.offload else states // num_gpus,
        inputs=config.num_layers * model.num_tokens * config.dim * size if recomputed else 0,
        gathered=GATHERED_BLOCKS * per_block // config.num_layers * size if sharded else 0,
        block=kept if recomputed else config.num_layers * kept,
        autoencoder=weights["vae"] * size if distilled else 0,
        decoding=serving.estimate(model).autoencoder if distilled else 0,
        reserve=int(serving.RESERVE_BYTES),
        host_bytes=states if recipe.offload else 0,
    )
