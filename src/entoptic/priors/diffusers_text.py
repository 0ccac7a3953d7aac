"""Text conditioning of saved pipelines: the encoders of Stable Diffusion 1, 2 and XL, and the inputs of their networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from entoptic.base.files import folder_exists
from entoptic.errors import UserError
from entoptic.models.running import first_line
from entoptic.priors.diffusers_parts import (
    NEEDS_DIFFUSERS,
    TRANSFORMERS,
    Source,
    check_present,
    find_weights,
    load_frozen,
)

TEXT_PIPELINES = {
    "StableDiffusionPipeline": False, "LatentConsistencyModelPipeline": False, "StableDiffusionXLPipeline": True,
}  # fmt: skip
"""Pipelines that read text, and whether they have the two encoders and the further inputs of Stable Diffusion XL."""

_FURTHER = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")


@dataclass(frozen=True, kw_only=True)
class TextReading:
    """How a pipeline reads text.

    Attributes:
        encode: prompts to embeddings B×L×D.
        null: 1×L×D, the embedding that stands for no text in classifier-free guidance.
        call: the network as a function (states, times, embeddings) -> outputs.
    """

    encode: Callable[[Sequence[str]], Tensor]
    null: Tensor
    call: Callable[[Tensor, Tensor, Tensor], Tensor]


def read_text(
    source: Source, net: Any, decoder: nn.Module | None, *, two: bool, zeros: bool, given: Tensor | None
) -> TextReading:
    """Returns how the pipeline of a folder reads text.

    Args:
        source: of the prior.
        net: its network.
        decoder: from states to pictures, whose factor in size the network of Stable Diffusion XL is told.
        two: whether it has the two encoders of Stable Diffusion XL.
        zeros: whether no text is all zeros there, instead of the encoded empty prompt.
        given: 1×G, what a network with distilled guidance reads besides the time; None for others.

    Raises:
        UserError: encoders that cannot be read or do not fit the network, or a network with further inputs.
    """
    _require(source.name, net.config, "text_time" if two else None)
    if not two:
        encode = _encoder(source, "text_encoder", "tokenizer", penultimate=False)

        def tokens(prompts: Sequence[str]) -> Tensor:
            return encode(prompts)[0]

        null = tokens([""])
        _require_width(source.name, null.shape[2], net)
        return TextReading(encode=tokens, null=null, call=lambda x, times, text: net(
            x, times, encoder_hidden_states=text, timestep_cond=_rows(given, x),
        ).sample)  # fmt: skip
    encoders = [
        _encoder(source, "text_encoder", "tokenizer", penultimate=True),
        _encoder(source, "text_encoder_2", "tokenizer_2", penultimate=True),
    ]

    def both(prompts: Sequence[str]) -> Tensor:
        (first, _), (second, pooled) = (encode(prompts) for encode in encoders)
        return joined(torch.cat([first, second], 2), pooled)

    empty = both([""])
    _require_width(source.name, empty.shape[2], net)
    numbers = _picture_numbers(source.name, net.config, decoder).to(source.device)
    pooled_width = net.config.projection_class_embeddings_input_dim - 6 * net.config.addition_time_embed_dim
    if (written := _pooled_width(encoders[1])) != pooled_width:
        raise UserError(
            f"{source.name}: its second text encoder sums a prompt up in {written} numbers and its network reads "
            f"{pooled_width}"
        )

    def call(x: Tensor, times: Tensor, text: Tensor) -> Tensor:
        added = {"text_embeds": text[:, -1, :pooled_width], "time_ids": numbers.expand(len(x), -1)}
        found = net(
            x, times, encoder_hidden_states=text[:, :-1], added_cond_kwargs=added, timestep_cond=_rows(given, x)
        )
        sample: Tensor = found.sample
        return sample

    return TextReading(encode=both, null=torch.zeros_like(empty) if zeros else empty, call=call)


def joined(tokens_BLD: Tensor, pooled_BP: Tensor) -> Tensor:
    """Returns the tokens of a prompt with its summary as one row more, B×(L+1)×D, filled up with zeros.

    A text prior has one tensor of text, which is optimised, averaged and hashed as one.

    Args:
        tokens_BLD: one row for each token.
        pooled_BP: one row for the prompt, P ≤ D.
    """
    return torch.cat([tokens_BLD, pad(pooled_BP, (0, tokens_BLD.shape[2] - pooled_BP.shape[1]))[:, None]], 1)


def _rows(given: Tensor | None, x: Tensor) -> Tensor | None:
    return None if given is None else given.expand(len(x), -1)


def _pooled_width(encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]]) -> int:
    return encode([""])[1].shape[1]


def _require(name: str, config: Any, added: str | None) -> None:
    """Checks that a text network reads no inputs but those of its pipeline.

    Raises:
        UserError: it does.
    """
    for field in _FURTHER:
        wanted = added if field == "addition_embed_type" else None
        if config.get(field) not in (None, wanted):
            raise UserError(
                f"{name}: its network also reads what {field} = {config[field]} stands for, which is not supported; "
                "text alone is (Stable Diffusion 1 and 2, XL, and what derives from them)"
            )
    if added is not None and config.get("addition_embed_type") != added:
        raise UserError(
            f'{name} is a StableDiffusionXLPipeline whose network has no addition_embed_type "{added}"; a network without '
            "belongs to a StableDiffusionPipeline"
        )


def _require_width(name: str, written: int, net: Any) -> None:
    """Checks that a network reads as many numbers per token as the encoders write.

    Raises:
        UserError: it does not.
    """
    if written != net.config.cross_attention_dim:
        raise UserError(
            f"{name}: its text encoder writes {written} numbers per token and its network reads "
            f"{net.config.cross_attention_dim}"
        )


def _picture_numbers(name: str, config: Any, decoder: nn.Module | None) -> Tensor:
    """Returns the six numbers on the picture that the network of Stable Diffusion XL reads, 1×6.

    They say that a training photo of full size was not cropped: original height and width, corner of the crop, target size.
    """
    own: Any = getattr(decoder, "config", {})
    widths = own.get("decoder_block_out_channels") or own.get("block_out_channels") or (0,)
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    factor = 2 ** (len(widths) - 1)
    return torch.tensor([[height * factor, width * factor, 0, 0, height * factor, width * factor]], dtype=torch.float32)


def _encoder(
    source: Source, part: str, words: str, *, penultimate: bool
) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Returns the function from prompts to (embeddings B×L×D, summaries B×P).

    Args:
        source: of the prior.
        part: the encoder's name.
        words: the tokenizer's name.
        penultimate: whether embeddings are the states before the last layer, and the encoder's class is the one that the
            folder names, which sums a prompt up.

    Raises:
        UserError: an encoder or tokenizer that cannot be read.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    kind = source.classes.get(part, "missing")
    if kind not in _ENCODERS:
        raise UserError(
            f"{source.name}: its {part} is {kind}; a prior that reads text needs one of {', '.join(_ENCODERS)} there"
        )
    check_present(source, part, kind)
    folder = source.fetch([f"{words}/*"])
    if not folder_exists(folder / words):
        raise UserError(f"{source.name}: its {words} is not there; fetch the folder again with {words}/*")
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / words)
    except Exception as error:
        raise UserError(f"{source.name}: could not read its {words} as CLIP's ({first_line(error)})") from error
    cls = getattr(transformers, kind if penultimate else "CLIPTextModel")
    what = part.replace("_", " ")
    encoder: Any = load_frozen(
        source.name, what, source.trust, find_weights(source, part, what, TRANSFORMERS, cls)
    ).to(source.device)  # fmt: skip
    length = encoder.config.max_position_embeddings

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=False)
        for prompt, row, mask in zip(prompts, tokens.input_ids, tokens.attention_mask):
            if len(row) > length:
                raise UserError(
                    f'the prompt "{prompt[:40]}…" has {sum(mask)} tokens; {source.name} reads at most {length}'
                )
        ids = torch.tensor(tokens.input_ids, device=source.device)
        mask = torch.tensor(tokens.attention_mask, device=source.device)
        masked = getattr(encoder.config, "use_attention_mask", False) and not penultimate
        found = encoder(ids, attention_mask=mask if masked else None, output_hidden_states=penultimate)
        if not penultimate:
            return found[0], found[0][:, 0]
        return found.hidden_states[-2], found[0] if found[0].ndim == 2 else found[0][:, 0]

    return encode
