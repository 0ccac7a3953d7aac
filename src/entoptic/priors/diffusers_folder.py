"""Priors from folders in the layout of diffusers. Their parts are loaded one by one: no pipeline is built, and no code of
the folder is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.base.records import read_json
from entoptic.errors import UserError, counted, nearest
from entoptic.models.model import weights_sha256
from entoptic.priors.network_prior import DiffusionPrior, TextPrior, checked_guidance, text_identity, to_pictures
from entoptic.priors.prior import Prior
from entoptic.priors.schedule import MAP_ENDS, Diffusion, read_bounds, read_schedule

NEEDS_DIFFUSERS = "priors need diffusers and transformers: pip install entoptic[diffusion]"

# Pipeline class -> names of its network part and its decoder part (None: states are pixels).
PIPELINES: dict[str, tuple[str, str | None]] = {
    "DDPMPipeline": ("unet", None),
    "DDIMPipeline": ("unet", None),
    "PNDMPipeline": ("unet", None),
    "LDMPipeline": ("unet", "vqvae"),
    "DiTPipeline": ("transformer", "vae"),
    "StableDiffusionPipeline": ("unet", "vae"),
}
# Class name in the folder -> class of diffusers. Older DiT repositories have the name before diffusers split the class.
NETWORKS = {name: name for name in ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")}
NETWORKS["Transformer2DModel"] = "DiTTransformer2DModel"
DECODERS = {name: name for name in ("AutoencoderKL", "AutoencoderTiny", "VQModel")}


Fetch = Callable[[Sequence[str]], Path]
"""Makes files available: takes file patterns, returns the local folder that holds them."""


def from_folder(
    name: str, fetch: Fetch, device: torch.device, *, guidance: float | None, prompt: str | None, trust: bool
) -> Prior:
    """Loads a prior from a saved pipeline of diffusers, or from a single network with `scheduler_config.json` beside it.

    Args:
        name: of the prior, as given to `load_prior`.
        fetch: makes files available locally.
        device: where the networks go.
        guidance: weight of classifier-free guidance; None for 1.
        prompt: text of a text-to-image prior; None for the empty text.
        trust: whether pickled weights are read where there are no safetensors.

    Raises:
        UserError: a folder that cannot serve as a prior, with the reason and what can.
    """
    try:
        import diffusers
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    folder = fetch(["*.json"])
    index = _read_json(folder / "model_index.json")
    own = _read_json(folder / "config.json")
    if index is not None:
        pipeline = str(index.get("_class_name"))
        if pipeline not in PIPELINES:
            raise UserError(
                f"{name} is a {pipeline}; supported pipelines are {', '.join(PIPELINES)}{nearest(pipeline, PIPELINES)}"
            )
        net_part, decoder_part = PIPELINES[pipeline]
        classes = {part: str(value[1]) for part, value in index.items() if isinstance(value, list) and len(value) == 2}
        scheduler_folder = "scheduler"
        text = pipeline == "StableDiffusionPipeline"
    elif own is not None:
        net_part, decoder_part, text = "", None, False
        classes = {"": str(own.get("_class_name"))}
        scheduler_folder = "scheduler" if (folder / "scheduler").is_dir() else ""
    else:
        raise UserError(
            f"{name} has neither model_index.json (a pipeline of diffusers) nor config.json (one of its networks)"
        )
    scheduler = _scheduler(diffusers, name, folder / scheduler_folder)
    schedule, bounds = read_schedule(scheduler), read_bounds(scheduler)
    net: Any = _load_part(diffusers, name, fetch, net_part, classes, NETWORKS, trust).to(device)
    shape = _shape(name, net.config)
    if text:
        _require_text_only(name, net.config)
    elif prompt is not None:
        raise UserError(f'{name} reads no text; leave out prompt="{prompt}"')
    conditions, null_class = (0, None) if text else _classes(name, net.config)
    weight = checked_guidance(name, guidance, 1.0, null=text or null_class is not None)
    decoder = (
        _load_part(diffusers, name, fetch, decoder_part, classes, DECODERS, trust).to(device) if decoder_part else None
    )
    pictures = _decoder_of(name, shape[0], decoder)
    weights = content_key({
        "network": [weights_sha256(net), saved_config(folder / net_part)],
        "decoder": [weights_sha256(decoder), saved_config(folder / decoder_part)] if decoder and decoder_part else None,
        "schedule": dataclasses.asdict(schedule) | {"kind": type(schedule).__name__},
        # Banks of the few-step map depend on its levels too. Those of a flow follow from its schedule.
        **({"map_ends": MAP_ENDS} if isinstance(schedule, Diffusion) else {}),
        "bounds": bounds,
    })  # fmt: skip
    if not text:
        return DiffusionPrior(
            name, content_key({"weights": weights, "guidance": weight}), shape, bounds, conditions, device, schedule,
            class_network(net), pictures, null_class, weight, net, _encoder_of(shape[0], decoder),
        )  # fmt: skip
    encode = _text_encoder(name, fetch, device, trust)
    null, own_text = encode([""]), encode([prompt or ""])
    if null.shape[2] != net.config.cross_attention_dim:
        raise UserError(
            f"{name}: its text encoder writes {null.shape[2]} numbers per token and its network reads "
            f"{net.config.cross_attention_dim}"
        )
    return TextPrior(
        name, text_identity(weights, own_text, null, weight), shape, bounds, 0, device, schedule,
        lambda x, times, text: net(x, times, encoder_hidden_states=text).sample, pictures, encode, weights,
        own_text, null, weight, net, _encoder_of(shape[0], decoder),
    )  # fmt: skip


def class_network(net: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Returns a network of diffusers that reads no text as a function (states, times, classes or None) -> outputs."""
    if type(net).__name__ == "UNet2DConditionModel":
        return lambda x, times, classes: net(x, times, None, class_labels=classes).sample
    return lambda x, times, classes: net(x, timestep=times, class_labels=classes).sample


def _read_json(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file, or None if there is no file.

    Raises:
        UserError: a file that is not a JSON object.
    """
    return read_json(path, finite=False) if path.is_file() else None


def _scheduler(diffusers: Any, name: str, folder: Path) -> Any:
    """Returns the scheduler of a folder.

    Raises:
        UserError: no scheduler, or an unknown one.
    """
    config = _read_json(folder / "scheduler_config.json")
    if config is None:
        raise UserError(
            f"{name} has no scheduler_config.json, without which its noise levels and parameterisation are unknown; "
            "save the scheduler that it was trained with beside it"
        )
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise UserError(f'{name}: diffusers {diffusers.__version__} has no scheduler "{config.get("_class_name")}"')
    return kind.from_config(config)


def _load_part(
    diffusers: Any,
    name: str,
    fetch: Fetch,
    part: str,
    classes: Mapping[str, str],
    known: Mapping[str, str],
    trust: bool,
) -> nn.Module:
    """Loads the network of one part of a pipeline.

    Raises:
        UserError: a part of an unsupported class, or weights that cannot be read.
    """
    kind = classes.get(part, "missing")
    if kind not in known:
        raise UserError(f"{name}: its {part or 'network'} is {kind}; supported are {', '.join(known)}")
    folder = fetch(_weight_files(f"{part}/diffusion_pytorch_model" if part else "diffusion_pytorch_model", trust))
    read = partial(getattr(diffusers, known[kind]).from_pretrained, folder, subfolder=part or None)
    return load_frozen(name, part or "network", trust, read)


def _weight_files(stem: str, trust: bool) -> list[str]:
    """Returns the file patterns of a part's weights."""
    return [f"{stem}.safetensors", f"{stem}-*-of-*.safetensors"] + ([f"{stem}*.bin"] if trust else [])


def load_frozen(name: str, part: str, trust: bool, read: Callable[..., Any]) -> nn.Module:
    """Loads a network in float32, frozen and in evaluation mode.

    Args:
        name: of the prior, for errors.
        part: of the network, for errors.
        trust: whether pickled weights may be read.
        read: diffusers' or transformers' `from_pretrained` with its folder.

    Raises:
        UserError: weights that cannot be read, or missing tensors (which would be random numbers).
    """
    try:
        net, found = read(use_safetensors=None if trust else True, output_loading_info=True)
    except Exception as error:
        raise UserError(
            f"{name}: could not read its {part} ({_short(error)})"
            + ("" if trust else "; only safetensors are read, unless trust=True allows pickled weights too")
        ) from error
    if missing := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UserError(
            f"{name}: the weights of its {part} lack {counted(len(missing), 'tensor')}, {missing[0]} for one"
        )
    return net.float().eval().requires_grad_(False)


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


def _require_text_only(name: str, config: Any) -> None:
    """Checks that a text network reads no further inputs.

    Raises:
        UserError: it does.
    """
    for field in ("addition_embed_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim"):
        if config.get(field) is not None:
            raise UserError(
                f"{name}: its network also reads what {field} = {config[field]} stands for, which is not supported; "
                "text alone is (Stable Diffusion 1 and 2 and what derives from them)"
            )


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


def _text_encoder(name: str, fetch: Fetch, device: torch.device, trust: bool) -> Callable[[Sequence[str]], Tensor]:
    """Returns the function from prompts to text embeddings, B×L×D.

    Raises:
        UserError: an encoder or tokenizer that cannot be read.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    stem = "text_encoder/pytorch_model" if trust else "text_encoder/model"
    folder = fetch(["tokenizer/*", "text_encoder/model.safetensors", *_weight_files(stem, trust)])
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    except Exception as error:
        raise UserError(f"{name}: could not read its tokenizer as CLIP's ({_short(error)})") from error
    read = partial(CLIPTextModel.from_pretrained, folder / "text_encoder")
    encoder: Any = load_frozen(name, "text encoder", trust, read).to(device)
    length = encoder.config.max_position_embeddings

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=False)
        for prompt, row, mask in zip(prompts, tokens.input_ids, tokens.attention_mask):
            if len(row) > length:
                raise UserError(f'the prompt "{prompt[:40]}…" has {sum(mask)} tokens; {name} reads at most {length}')
        ids = torch.tensor(tokens.input_ids, device=device)
        mask = torch.tensor(tokens.attention_mask, device=device)
        masked = getattr(encoder.config, "use_attention_mask", False)
        return encoder(ids, attention_mask=mask if masked else None)[0]

    return encode


def saved_config(folder: Path) -> dict[str, Any]:
    """Returns a network's config as it was saved, for identities. Defaults that the library adds differ between its versions."""
    return {key: value for key, value in (_read_json(folder / "config.json") or {}).items() if not key.startswith("_")}


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
