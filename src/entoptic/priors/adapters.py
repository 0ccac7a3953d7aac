"""Trained diffusion and flow-matching networks as priors.

A prior here is a network, the schedule that it was trained for and a way from states to pictures. `from_folder` reads
these from a folder in the layout of diffusers, part by part; no pipeline is built and no code of a repository is run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.errors import UserError, nearest
from entoptic.images.cache import content_key
from entoptic.models.model import weights_sha256
from entoptic.priors.prior import Level, Prior
from entoptic.priors.schedule import Schedule, read_bounds, read_schedule

NEEDS_DIFFUSERS = "priors need diffusers and transformers: pip install entoptic[diffusion]"

# Pipeline class -> its network and what decodes latents, by the names of their parts.
PIPELINES: dict[str, tuple[str, str | None]] = {
    "DDPMPipeline": ("unet", None),
    "DDIMPipeline": ("unet", None),
    "PNDMPipeline": ("unet", None),
    "LDMPipeline": ("unet", "vqvae"),
    "DiTPipeline": ("transformer", "vae"),
    "StableDiffusionPipeline": ("unet", "vae"),
}
# Older DiT repositories name the class that diffusers has since split up.
NETWORKS = {name: name for name in ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")}
NETWORKS["Transformer2DModel"] = "DiTTransformer2DModel"
DECODERS = {name: name for name in ("AutoencoderKL", "AutoencoderTiny", "VQModel")}


# --- guidance and pictures -------------------------------------------------------------------------------------------


def guided(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, given: Tensor, null: Tensor, weight: float) -> Tensor:
    """null + weight·(given - null) of the network's outputs, one call (Ho & Salimans 2022; weight 1 is no guidance).

    call: (states B×…, conditions B×…) -> outputs. It holds for E[x0|x_t] too, which is affine in the output.
    """
    if weight in (0, 1):
        return call(x, given if weight else null)
    with_it, without = call(torch.cat([x, x]), torch.cat([given, null])).chunk(2)
    return without + weight * (with_it - without)


def to_pictures(x: Tensor) -> Tensor:
    """B×1×H×W or B×3×H×W in [-1, 1] to RGB float32 in [0, 1]; the clamp passes gradients inside the range."""
    pictures = ((x.float() + 1) / 2).clamp(0, 1)
    return pictures.repeat(1, 3, 1, 1) if x.shape[1] == 1 else pictures


# --- priors ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DiffusionPrior:
    """A network without text: unconditional, or with classes (see `Prior` for the first six fields).

    Attributes:
        schedule: levels and parameterisation. network: (states B×C×H×W, times B, classes B or None) -> outputs, whose
            first C channels count (the others are learned variances). pictures: clean states to RGB in [0, 1].
        null: the class that stands for none, where the network was trained with one.
        guidance: weight of classifier-free guidance.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device
    schedule: Schedule
    network: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    pictures: Callable[[Tensor], Tensor]
    null: int | None = None
    guidance: float = 1.0

    def levels(self, steps: int) -> list[Level]:
        return self.schedule.levels(steps)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x]; condition -1 is none.

        Raises:
            UserError: no condition, where the network was never trained without one.
        """
        return self.schedule.clean(x, self._output(x.float(), level.time, condition).to(x.dtype), level)

    def _output(self, x: Tensor, time: float, condition: Tensor | None) -> Tensor:
        channels = self.shape[0]
        if not self.conditions:
            return self.network(x, _times(x, time), None)[:, :channels]
        if self.null is None:
            if condition is None:
                raise UserError(
                    f"{self.name} was trained with classes only; give each state one of 0 … {self.conditions - 1}"
                )
            return self.network(x, _times(x, time), condition)[:, :channels]
        null = torch.full((len(x),), self.null, device=x.device)
        if condition is None:
            return self.network(x, _times(x, time), null)[:, :channels]
        given = torch.where(condition < 0, null, condition)
        return guided(
            lambda x, classes: self.network(x, _times(x, time), classes)[:, :channels], x, given, null, self.guidance
        )

    def decode(self, x0: Tensor) -> Tensor:
        return self.pictures(x0)


@dataclass(eq=False)
class TextPrior:
    """A text-to-image network at a fixed text, which makes it a prior without conditions.

    Attributes:
        identity: covers the weights (`weights`), the text and the guidance.
        network: (states B×C×H×W, times B, text B×L×D) -> outputs. text, null: 1×L×D embeddings of the prompt and of
            the empty prompt. encode: prompts to embeddings.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device
    schedule: Schedule
    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    pictures: Callable[[Tensor], Tensor]
    encode: Callable[[Sequence[str]], Tensor]
    weights: str
    text: Tensor
    null: Tensor
    guidance: float = 1.0

    def levels(self, steps: int) -> list[Level]:
        return self.schedule.levels(steps)

    def denoise(
        self, x: Tensor, level: Level, condition: Tensor | None = None, *, text: Tensor | None = None
    ) -> Tensor:
        """E[x0 | x_t = x, text], differentiable in both; text: 1×L×D or B×L×D embeddings, default the prior's own."""
        given, null = (
            part.expand(len(x), -1, -1) for part in (self._fitting(self.text if text is None else text), self.null)
        )
        output = guided(
            lambda x, text: self.network(x, _times(x, level.time), text)[:, : self.shape[0]],
            x.float(), given, null, self.guidance,
        )  # fmt: skip
        return self.schedule.clean(x, output.to(x.dtype), level)

    def decode(self, x0: Tensor) -> Tensor:
        return self.pictures(x0)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of prompts, one row each: B×L×D.

        Raises:
            UserError: a prompt that the text encoder would cut off.
        """
        return self.encode(prompts)

    def with_text(self, text: Tensor) -> TextPrior:
        """The prior at another text, 1×L×D."""
        text = self._fitting(text.detach())
        return dataclasses.replace(
            self, text=text, identity=_text_identity(self.weights, text, self.null, self.guidance)
        )

    def _fitting(self, text: Tensor) -> Tensor:
        if (
            text.ndim != 3
            or text.shape[2] != self.null.shape[2]
            or (self.guidance != 1 and text.shape[1] != self.null.shape[1])
        ):
            raise UserError(
                f"{self.name} reads embeddings of shape B×{self.null.shape[1]}×{self.null.shape[2]}, got "
                f"{tuple(text.shape)}; `embed` makes them from prompts"
            )
        return text.to(self.device, self.null.dtype)


def _times(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, device=x.device)


def _text_identity(weights: str, text: Tensor, null: Tensor, guidance: float) -> str:
    texts = [hashlib.sha256(part.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for part in (text, null)]
    return content_key({"weights": weights, "text": texts, "guidance": guidance})


def checked_guidance(name: str, guidance: float | None, default: float, *, null: bool) -> float:
    """A guidance weight that the prior can use.

    Raises:
        UserError: a negative or infinite weight, or one other than 1 where there is no output without a condition.
    """
    weight = default if guidance is None else float(guidance)
    if not 0 <= weight < float("inf"):
        raise UserError(f"a guidance weight must be 0 or more (1 is none), got {guidance}")
    if weight != 1 and not null:
        raise UserError(
            f"{name} has no class or text, with and without which guidance could compare it; leave out guidance={weight:g}"
        )
    return weight


# --- reading folders of diffusers ------------------------------------------------------------------------------------


Fetch = Callable[[Sequence[str]], Path]
"""File patterns -> the folder that holds these files."""


def from_folder(
    name: str, fetch: Fetch, device: torch.device, *, guidance: float | None, prompt: str | None, trust: bool
) -> Prior:
    """A prior from a saved pipeline of diffusers, or from a lone network with `scheduler_config.json` beside it.

    Raises:
        UserError: what cannot serve as a prior, with the reason and what can.
    """
    try:
        import diffusers
    except ImportError:
        raise UserError(NEEDS_DIFFUSERS) from None
    folder = fetch(["*.json"])
    index = _json(folder / "model_index.json")
    own = _json(folder / "config.json")
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
    net: Any = _part(diffusers, name, fetch, net_part, classes, NETWORKS, trust).to(device)
    shape = _shape(name, net.config)
    if text:
        _reads_text(name, net.config)
    elif prompt is not None:
        raise UserError(f'{name} reads no text; leave out prompt="{prompt}"')
    conditions, null_class = (0, None) if text else _classes(name, net.config)
    weight = checked_guidance(name, guidance, 1.0, null=text or null_class is not None)
    decoder = _part(diffusers, name, fetch, decoder_part, classes, DECODERS, trust).to(device) if decoder_part else None
    pictures = _pictures(name, shape[0], decoder)
    weights = content_key({
        "network": [weights_sha256(net), _public(net.config)],
        "decoder": [weights_sha256(decoder), _public(decoder.config)] if decoder is not None else None,
        "schedule": dataclasses.asdict(schedule) | {"kind": type(schedule).__name__},
        "bounds": bounds,
    })  # fmt: skip
    if not text:
        return DiffusionPrior(
            name, content_key({"weights": weights, "guidance": weight}), shape, bounds, conditions, device, schedule,
            class_network(net), pictures, null_class, weight,
        )  # fmt: skip
    encode = _text_encoder(name, fetch, device, trust)
    null, own_text = encode([""]), encode([prompt or ""])
    if null.shape[2] != net.config.cross_attention_dim:
        raise UserError(
            f"{name}: its text encoder writes {null.shape[2]} numbers per token and its network reads "
            f"{net.config.cross_attention_dim}"
        )
    return TextPrior(
        name, _text_identity(weights, own_text, null, weight), shape, bounds, 0, device, schedule,
        lambda x, times, text: net(x, times, encoder_hidden_states=text).sample, pictures, encode, weights,
        own_text, null, weight,
    )  # fmt: skip


def class_network(net: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """A network of diffusers that reads no text as (states, times, classes or None) -> outputs."""
    if type(net).__name__ == "UNet2DConditionModel":
        return lambda x, times, classes: net(x, times, None, class_labels=classes).sample
    return lambda x, times, classes: net(x, timestep=times, class_labels=classes).sample


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        read = json.loads(path.read_text())
        assert isinstance(read, dict)
    except (ValueError, AssertionError):
        raise UserError(f"{path} is not a JSON object") from None
    return read


def _scheduler(diffusers: Any, name: str, folder: Path) -> Any:
    config = _json(folder / "scheduler_config.json")
    if config is None:
        raise UserError(
            f"{name} has no scheduler_config.json, without which its noise levels and parameterisation are unknown; "
            "save the scheduler that it was trained with beside it"
        )
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise UserError(f'{name}: diffusers {diffusers.__version__} has no scheduler "{config.get("_class_name")}"')
    return kind.from_config(config)


def _part(
    diffusers: Any,
    name: str,
    fetch: Fetch,
    part: str,
    classes: Mapping[str, str],
    known: Mapping[str, str],
    trust: bool,
) -> nn.Module:
    kind = classes.get(part, "missing")
    if kind not in known:
        raise UserError(f"{name}: its {part or 'network'} is {kind}; supported are {', '.join(known)}")
    folder = fetch(_weight_files(f"{part}/diffusion_pytorch_model" if part else "diffusion_pytorch_model", trust))
    read = partial(
        getattr(diffusers, known[kind]).from_pretrained, folder, subfolder=part or None, torch_dtype=torch.float32
    )
    return read_whole(name, part or "network", trust, read)


def _weight_files(stem: str, trust: bool) -> list[str]:
    return [f"{stem}.safetensors", f"{stem}-*-of-*.safetensors"] + ([f"{stem}*.bin"] if trust else [])


def read_whole(name: str, part: str, trust: bool, read: Callable[..., Any]) -> nn.Module:
    """What `read` makes of a part's files, frozen; weights that are not there would be random numbers."""
    try:
        net, found = read(use_safetensors=None if trust else True, output_loading_info=True)
    except Exception as error:
        raise UserError(
            f"{name}: could not read its {part} ({_short(error)})"
            + ("" if trust else "; only safetensors are read, unless trust=True allows pickled weights too")
        ) from error
    if missing := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UserError(f"{name}: the weights of its {part} lack {len(missing)} tensors, {missing[0]} for one")
    return net.eval().requires_grad_(False)


def _shape(name: str, config: Any) -> tuple[int, int, int]:
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
    """Number of classes and the one that stands for none."""
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


def _reads_text(name: str, config: Any) -> None:
    for field in ("addition_embed_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim"):
        if config.get(field) is not None:
            raise UserError(
                f"{name}: its network also reads what {field} = {config[field]} stands for, which is not supported; "
                "text alone is (Stable Diffusion 1 and 2 and what derives from them)"
            )


def _pictures(name: str, channels: int, decoder: nn.Module | None) -> Callable[[Tensor], Tensor]:
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


def _text_encoder(name: str, fetch: Fetch, device: torch.device, trust: bool) -> Callable[[Sequence[str]], Tensor]:
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
    read = partial(CLIPTextModel.from_pretrained, folder / "text_encoder", torch_dtype=torch.float32)
    encoder: Any = read_whole(name, "text encoder", trust, read).to(device)
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


def _public(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
