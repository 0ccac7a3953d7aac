"""Priors from folders in the layout of diffusers. Their parts are loaded one by one: no pipeline is built, and no code of
the folder is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.base.files import folder_exists
from entoptic.errors import UserError
from entoptic.models.model import weights_sha256
from entoptic.priors.diffusers_parts import (
    DECODERS,
    NEEDS_DIFFUSERS,
    NETWORKS,
    Fetch,
    Source,
    load_frozen,
    load_part,
    load_scheduler,
    read_config,
    saved_config,
)
from entoptic.priors.diffusers_text import TEXT_PIPELINES, TextReading, read_text
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, checked_guidance, text_identity, to_pictures
from entoptic.priors.one_step import Distillation, OneStepPrior, guidance_embedding, read_distillation
from entoptic.priors.prior import Prior
from entoptic.priors.schedule import MAP_ENDS, Diffusion, Schedule, read_bounds, read_schedule
from entoptic.priors.unfit_folders import refuse_folder, refuse_network, refuse_pipeline

__all__ = ["NEEDS_DIFFUSERS", "PIPELINES", "Fetch", "class_network", "from_folder", "load_frozen", "saved_config"]

# Pipeline class -> names of its network part and its decoder part (None: states are pixels).
PIPELINES: dict[str, tuple[str, str | None]] = {
    "DDPMPipeline": ("unet", None),
    "DDIMPipeline": ("unet", None),
    "PNDMPipeline": ("unet", None),
    "LDMPipeline": ("unet", "vqvae"),
    "DiTPipeline": ("transformer", "vae"),
    **dict.fromkeys(TEXT_PIPELINES, ("unet", "vae")),
}

_LCM_GUIDANCE = 8.5
"""Weight at which networks with distilled guidance are used if none is given, as in their pipeline. They know none near 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Built:
    """What every prior of a folder is made of.

    Attributes:
        weights: hash of the network, the decoder and the schedule.
        others: as in `DiffusionPrior`.
    """

    name: str
    weights: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    device: torch.device
    schedule: Schedule
    net: Any
    decoder: nn.Module | None
    pictures: Callable[[Tensor], Tensor]


def from_folder(
    name: str, fetch: Fetch, device: torch.device, *, guidance: float | None, prompt: str | None, trust: bool
) -> Prior:
    """Loads a prior from a saved pipeline of diffusers, or from a single network with `scheduler_config.json` beside it.

    Args:
        name: of the prior, as given to `load_prior`.
        fetch: makes files available locally.
        device: where the networks go.
        guidance: weight of classifier-free guidance; None for 1, or for 8.5 where the network has distilled guidance.
        prompt: text of a text-to-image prior; None for no text.
        trust: whether pickled weights are read where there are no safetensors.

    Raises:
        UserError: a folder that cannot serve as a prior, with the reason and what can.
    """
    try:
        import diffusers
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    folder = fetch(["*.json"])
    index = read_config(folder / "model_index.json")
    own = read_config(folder / "config.json")
    pipeline = ""
    if index is not None:
        pipeline = str(index.get("_class_name"))
        refuse_pipeline(name, pipeline, PIPELINES)
        net_part, decoder_part = PIPELINES[pipeline]
        classes = {part: str(value[1]) for part, value in index.items() if isinstance(value, list) and len(value) == 2}
    elif own is not None:
        net_part, decoder_part = "", None
        classes = {"": str(own.get("_class_name"))}
        refuse_network(name, folder, own, NETWORKS)
    else:
        refuse_folder(name, folder)
    source = Source(name=name, fetch=fetch, folder=folder, classes=classes, device=device, trust=trust)
    scheduler = load_scheduler(diffusers, name, folder / ("scheduler" if folder_exists(folder / "scheduler") else ""))
    schedule, bounds = read_schedule(scheduler), read_bounds(scheduler)
    distillation = read_distillation(scheduler) if pipeline in TEXT_PIPELINES else None
    if type(scheduler).__name__ == "LCMScheduler" and distillation is None:
        raise UserError(
            f"{name}: LCMScheduler stands for a consistency function, which is read of text pipelines only "
            f"({', '.join(TEXT_PIPELINES)}); give the pipeline that it was distilled from"
        )
    net: Any = load_part(diffusers, source, net_part, NETWORKS)
    shape = _shape(name, net.config)
    if prompt is not None and pipeline not in TEXT_PIPELINES:
        raise UserError(f'{name} reads no text; leave out prompt="{prompt}"')
    conditions, null_class = (0, None) if pipeline in TEXT_PIPELINES else _classes(name, net.config)
    weight = _weight(
        name, net.config, guidance, distillation, null=pipeline in TEXT_PIPELINES or null_class is not None
    )
    decoder = load_part(diffusers, source, decoder_part, DECODERS) if decoder_part else None
    pictures = _decoder_of(name, shape[0], decoder)
    weights = content_key({
        "network": [weights_sha256(net), source.config(net_part)],
        "decoder": [weights_sha256(decoder), source.config(decoder_part)] if decoder and decoder_part else None,
        "schedule": dataclasses.asdict(schedule) | {"kind": type(schedule).__name__},
        # Banks of the few-step map depend on its levels too. Those of a flow follow from its schedule.
        **({"map_ends": MAP_ENDS} if isinstance(schedule, Diffusion) else {}),
        "bounds": bounds,
    })  # fmt: skip
    built = _Built(
        name=name, weights=weights, shape=shape, bounds=bounds, device=device, schedule=schedule, net=net,
        decoder=decoder, pictures=pictures,
    )  # fmt: skip
    if pipeline not in TEXT_PIPELINES:
        return DiffusionPrior(
            name, content_key({"weights": weights, "guidance": weight}), shape, bounds, conditions, device, schedule,
            class_network(net), pictures, null_class, weight, net, _encoder_of(shape[0], decoder),
        )  # fmt: skip
    width = net.config.get("time_cond_proj_dim")
    zeros = bool(index.get("force_zeros_for_empty_prompt", True)) if index is not None else False
    reading = read_text(
        source, net, decoder, two=TEXT_PIPELINES[pipeline], zeros=zeros,
        given=None if width is None else guidance_embedding(weight, width).to(device),
    )  # fmt: skip
    if distillation is None:
        return _text_prior(built, reading, prompt, weight)
    return _one_step(built, reading, prompt, weight, distillation)


def _text_prior(built: _Built, reading: TextReading, prompt: str | None, weight: float) -> TextPrior:
    """Returns a prior at a text; None for the one that stands for no text."""
    own = reading.null if prompt is None else reading.encode([prompt])
    return TextPrior(
        built.name, text_identity(built.weights, own, reading.null, weight), built.shape, built.bounds, 0, built.device,
        built.schedule, reading.call, built.pictures, reading.encode, built.weights, own, reading.null, weight, built.net,
        _encoder_of(built.shape[0], built.decoder),
    )  # fmt: skip


def _one_step(
    built: _Built, reading: TextReading, prompt: str | None, weight: float, distillation: Distillation
) -> OneStepPrior:
    """Returns the map of a distilled network from noise, at a text; None for the empty one."""
    text = reading.encode([prompt or ""])
    level, channels = built.schedule.levels(1)[0], built.shape[0]

    def generator(x: Tensor) -> Tensor:
        times = torch.full((len(x),), level.time, device=x.device)
        output = reading.call(x, times, text.expand(len(x), -1, -1))[:, :channels]
        x0 = built.schedule.clean(x, output, level)
        return distillation.finish(x, x0 if built.bounds is None else x0.clamp(*built.bounds), level.time)

    identity = content_key({
        "text": text_identity(built.weights, text, text, weight), "distillation": dataclasses.asdict(distillation),
    })  # fmt: skip
    return OneStepPrior(
        built.name, identity, built.shape, built.bounds, 0, built.device, distillation, level, generator, built.pictures
    )


def _weight(name: str, config: Any, guidance: float | None, distillation: Distillation | None, *, null: bool) -> float:
    """Returns the guidance weight of a prior.

    Args:
        name: of the prior, for errors.
        config: of its network.
        guidance: the weight asked for, or None.
        distillation: of its network, or None.
        null: whether the network has an output without a condition.

    Raises:
        UserError: a weight that does not apply, or a network that reads a weight although it is not distilled.
    """
    if config.get("time_cond_proj_dim") is not None:
        if distillation is None or distillation.scaling is None:
            raise UserError(
                f"{name}: its network also reads what time_cond_proj_dim = {config['time_cond_proj_dim']} stands for, the "
                "weight of distilled guidance, which is supported with LCMScheduler only"
            )
        return checked_guidance(name, guidance, _LCM_GUIDANCE, null=True)
    if distillation is None:
        return checked_guidance(name, guidance, 1.0, null=null)
    if checked_guidance(name, guidance, 1.0, null=True) != 1:
        raise UserError(
            f"{name} is {distillation.what}, whose guidance is part of its weights; leave out guidance={guidance:g}"
        )
    return 1.0


def class_network(net: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Returns a network of diffusers that reads no text as a function (states, times, classes or None) -> outputs."""
    if type(net).__name__ == "UNet2DConditionModel":
        return lambda x, times, classes: net(x, times, None, class_labels=classes).sample
    return lambda x, times, classes: net(x, timestep=times, class_labels=classes).sample


def _shape(name: str, config: Any) -> tuple[int, int, int]:
    """Returns the shape C×H×W of a network's states.

    Raises:
        UserError: a network that reads more than the state, or has no size.
    """
    side, channels, outputs = config.sample_size, config.in_channels, config.out_channels
    if side is None:
        raise UserError(f"{name}: its config does not say at what size it was trained (sample_size)")
    # Learned variances (Nichol & Dhariwal 2021) double the outputs; anything else reads more than the state.
    if outputs not in (None, channels, 2 * channels):
        raise UserError(
            f"{name} reads {channels} channels and writes {outputs}; a prior writes as many as it reads, or twice as "
            "many with learned variances (inpainting and upscaling networks also read a picture)"
        )
    height, width = (side, side) if isinstance(side, int) else side
    return (channels, height, width)


def _classes(name: str, config: Any) -> tuple[int, int | None]:
    """Returns the number of classes, and the class that stands for none (or None).

    Raises:
        UserError: conditions of an unsupported kind.
    """
    if "num_embeds_ada_norm" in config:  # a DiT has one embedding more, for none
        return config.num_embeds_ada_norm, config.num_embeds_ada_norm
    if config.get("class_embed_type") is not None:
        raise UserError(
            f'{name}: class embeddings of type "{config.class_embed_type}" are not supported; plain ones are'
        )
    blocks = [*config.down_block_types, config.get("mid_block_type") or "", *config.up_block_types]
    if "cross_attention_dim" in config and any("CrossAttn" in str(block) for block in blocks):
        raise UserError(f"{name} reads text, and its text encoder is not there; give the folder of its whole pipeline")
    return config.num_class_embeds or 0, None


def _decoder_of(name: str, channels: int, decoder: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """Returns the function from clean states to RGB pictures in [0, 1].

    Raises:
        UserError: states that no decoder turns into pictures.
    """
    if decoder is None:
        if channels not in (1, 3):
            raise UserError(
                f"{name} makes states of {channels} channels and has no decoder; pictures have 1 (grey) or 3 (RGB)"
            )
        return to_pictures
    config: Any = decoder.config
    latent = config.get("vq_embed_dim") or config.latent_channels
    if latent != channels or config.out_channels not in (1, 3):
        raise UserError(
            f"{name}: its network makes latents of {channels} channels; its decoder makes pictures of "
            f"{config.out_channels} channels (1 or 3 expected) from latents of {latent}"
        )
    if config.get("latents_mean") is not None:
        raise UserError(f"{name}: latents standardised by channel (latents_mean) are not supported; a single scale is")
    scale, shift = float(config.get("scaling_factor") or 1.0), float(config.get("shift_factor") or 0.0)
    return lambda x0: to_pictures(decoder.decode(x0.float() / scale + shift).sample)  # type: ignore[operator]


def _encoder_of(channels: int, decoder: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    """Returns the function from pictures in [0, 1] to clean states, or None if there is none.

    States are pixels in [-1, 1], or the mode of the encoder's distribution of latents.
    """
    if decoder is None:
        return (lambda pictures: 2 * pictures - 1) if channels == 3 else None
    config: Any = decoder.config
    if config.out_channels != 3 or not hasattr(decoder, "encode"):
        return None
    scale, shift = float(config.get("scaling_factor") or 1.0), float(config.get("shift_factor") or 0.0)

    def encode(pictures: Tensor) -> Tensor:
        found = decoder.encode(2 * pictures - 1)  # type: ignore[operator]
        latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return (latents - shift) * scale

    return encode
