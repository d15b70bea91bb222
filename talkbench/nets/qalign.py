"""Q-Align (OneAlign): a picture, a question, and how likely each of five words is the answer.

Facts from Q-Future/Q-Align commit 14dfdff (Wu et al., ICML 2024); parameters are named as in the released
`q-future/one-align` files: 862 tensors, 8.20 billion numbers. The result is the official one, computed otherwise:
* a picture is encoded once for all questions (`look`), and only the answers' logits are computed (`ask`);
* any number of pictures at a time; the words before the picture are computed once for all of them;
* attention, rotary angles and token ids are our own, so no version of another library can change a score.

Legend: B images, C channels, H W pixels, K image embeddings, D width of the language model, A answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from talkbench.nets.qalign_language import Int8Linear, LanguageLayer, LanguageSizes, Places, RmsNorm, Stream
from talkbench.nets.qalign_vision import Abstractor, AbstractorSizes, VisionSizes, VisionTransformer

DERIVED_SUFFIX = ".rotary_emb.inv_freq"
"""Older exports of LLaMA also store the rotary frequencies; they follow from the sizes."""


@dataclass(frozen=True)
class Sizes:
    """All sizes; defaults are the released ones."""

    vision: VisionSizes = field(default_factory=VisionSizes)
    abstractor: AbstractorSizes = field(default_factory=AbstractorSizes)
    language: LanguageSizes = field(default_factory=LanguageSizes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sizes:
        """Read the sizes from the fields of an official `config.json`.

        Raises:
            ValueError: If the configuration asks for something the released model does not have.
        """
        heads = config["num_attention_heads"]
        if config.get("num_key_value_heads", heads) != heads:
            raise ValueError(f"num_key_value_heads {config['num_key_value_heads']} differs from {heads} heads")
        if config.get("rope_scaling"):
            raise ValueError(f"rope_scaling {config['rope_scaling']} is not supported")
        vision, abstractor = config["visual_config"]["visual_model"], config["visual_config"]["visual_abstractor"]
        if abstractor["hidden_size"] != vision["hidden_size"]:
            raise ValueError(f"abstractor width {abstractor['hidden_size']}, vision width {vision['hidden_size']}")
        return cls(
            VisionSizes(
                image_px=vision["image_size"],
                patch_px=vision["patch_size"],
                width=vision["hidden_size"],
                num_layers=vision["num_hidden_layers"],
                num_heads=vision["num_attention_heads"],
                mlp_width=vision["intermediate_size"],
                eps=vision["layer_norm_eps"],
            ),
            AbstractorSizes(
                num_queries=abstractor["num_learnable_queries"],
                num_layers=abstractor["num_hidden_layers"],
                num_heads=abstractor["num_attention_heads"],
                mlp_width=abstractor["intermediate_size"],
                eps=abstractor["layer_norm_eps"],
            ),
            LanguageSizes(
                vocabulary=config["vocab_size"],
                width=config["hidden_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=heads,
                mlp_width=config["intermediate_size"],
                eps=config["rms_norm_eps"],
                rotary_base=config.get("rope_theta", LanguageSizes.rotary_base),
            ),
        )


class Body(nn.Module):
    """Everything but the output matrix, under the released names."""

    def __init__(self, sizes: Sizes, int8: bool) -> None:
        super().__init__()
        language = sizes.language
        # Not nn.Embedding(...): drawing its first values costs seconds of imports on the meta device.
        words = torch.zeros(language.vocabulary, language.width)
        self.embed_tokens = nn.Embedding.from_pretrained(words, freeze=False)
        self.layers = nn.ModuleList([LanguageLayer(language, int8) for _ in range(language.num_layers)])
        self.norm = RmsNorm(language.width, language.eps)
        self.vision_model = VisionTransformer(sizes.vision)
        self.visual_abstractor = Abstractor(sizes.abstractor, sizes.vision, language.width)


class QAlign(nn.Module):
    """The network.

    Args:
        sizes: Of its parts.
        int8: Keep the linear maps of the language model as 8-bit integers (weights only).
    """

    def __init__(self, sizes: Sizes = Sizes(), int8: bool = False) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = Body(sizes, int8)
        self.lm_head = nn.Linear(sizes.language.width, sizes.language.vocabulary, bias=False)

    def look(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            pixels_BCHW: RGB, normalised, at the configured size; any float type.

        Returns:
            image_BKD: K = queries + 1 embeddings per picture.
        """
        weight = self.model.vision_model.embeddings.patch_embed.weight
        tokens = self.model.vision_model(pixels_BCHW.to(weight.device, weight.dtype))
        image_BKD: Tensor = self.model.visual_abstractor(tokens)
        return image_BKD

    def ask(self, image_BKD: Tensor, before: Sequence[int], after: Sequence[int], answers: Sequence[int]) -> Tensor:
        """Return the logits of `answers` as the next word, float32 [B, A].

        Args:
            image_BKD: From `look`.
            before: Token ids before the picture, the start mark included.
            after: Token ids after it, at least one.
            answers: Token ids to judge.
        """
        sizes, device = self.sizes.language, image_BKD.device
        before_1P = torch.tensor([list(before)], device=device)
        after_1T = torch.tensor([list(after)], device=device)
        after_BTD = self.model.embed_tokens(after_1T).expand(len(image_BKD), -1, -1)
        stream = Stream(self.model.embed_tokens(before_1P), torch.cat([image_BKD, after_BTD], dim=1))
        num_image, num_rest = image_BKD.shape[1], stream.rest_BRD.shape[1]
        head_width = sizes.width // sizes.num_heads
        places = Places.of(len(before), num_image, num_rest, head_width, sizes.rotary_base, image_BKD)
        for layer in self.model.layers:
            stream = layer(stream, places)
        last_BD = self.model.norm(stream.rest_BRD[:, -1])
        rows_AD = self.lm_head.weight[list(answers)]
        return functional.linear(last_BD.float(), rows_AD.float())

    @torch.no_grad()
    def fill(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take over weights one by one, converted to the type and device of the network, so that no second copy exists.

        Raises:
            ValueError: If a name is unknown or missing, or a shape differs.
        """
        places = dict(self.named_parameters())
        packed = {f"{name}.weight": part for name, part in self.named_modules() if isinstance(part, Int8Linear)}
        missing = places.keys() | packed.keys()
        for name, tensor in tensors:
            if name.endswith(DERIVED_SUFFIX):
                continue
            target = packed[name].weight if name in packed else places.get(name)
            if target is None:
                raise ValueError(f"unknown tensor {name}")
            if target.shape != tensor.shape:
                raise ValueError(f"tensor {name} is {tuple(tensor.shape)}, expected {tuple(target.shape)}")
            if name in packed:
                packed[name].fill(tensor)
            else:
                target.copy_(tensor)
            missing.discard(name)
        if missing:
            raise ValueError(f"{len(missing)} tensors are missing, {min(missing)} among them")


def empty(sizes: Sizes, dtype: torch.dtype, device: str, int8: bool = False) -> QAlign:
    """Return a network with room for its weights on `device` and nothing in them yet; `QAlign.fill` comes next."""
    with torch.device("meta"):
        net = QAlign(sizes, int8)
    for part in net.modules():
        if not isinstance(part, Int8Linear):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return net.to_empty(device=device)
