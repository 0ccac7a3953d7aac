"""A tiny random CLIP with a vocabulary of letters, as transformers stores one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch


def write_clip(folder: Path) -> Path:
    """Writes it into a new folder, which is returned; skips without transformers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder.mkdir()
    letters = [chr(k) for k in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[one + "</w>" for one in letters]]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 40})
    )
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std, "size": 16}))
    torch.manual_seed(0)
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **part,
            "vocab_size": len(words),
            "max_position_embeddings": 40,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**part, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder
