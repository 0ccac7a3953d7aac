"""Folders as they come from the hub: variants, shards, missing parts, and folders that are no pipeline."""

from __future__ import annotations

import fnmatch
import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_hub
from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.priors.prior import generate, noise_like
from entoptic.priors.sources import load_prior
from tiny_priors import close, pixel_unet, save_pixel_pipeline, seeds


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tiny_hub.sd15().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    tiny_hub.sdxl().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_pipeline(tmp_path_factory.mktemp("pixel"))


def identity(folder: Path, **options: Any) -> str:
    return load_prior(f"hf:{folder}", device="cpu", **options).identity


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_prior(f"hf:{folder}", device="cpu", **options)
    assert "\n" not in str(caught.value)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.no_grad()
def test_half_precision_files_are_read_where_they_are_alone(kind: str, tmp_path: Path) -> None:
    pipeline = getattr(tiny_hub, kind)()
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    names = {path.name for path in (tmp_path / "half").rglob("*.safetensors")}
    assert names == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    half = load_prior(f"hf:{tmp_path / 'half'}", device="cpu", prompt="a cat")
    # The same rounded numbers, saved in float32.
    pipeline.to(torch.float32).save_pretrained(tmp_path / "full")
    assert identity(tmp_path / "full", prompt="a cat") == half.identity
    x0 = generate(half, noise_like(half, seeds(0)), steps=2)
    assert x0.dtype == torch.float32
    assert x0.isfinite().all()


def test_full_precision_comes_before_variants(text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "both")
    for file in (tmp_path / "both").rglob("*.safetensors"):
        file.with_suffix(".fp16.safetensors").write_bytes(b"not weights")
    assert identity(tmp_path / "both") == identity(text)
    for file in (tmp_path / "both").rglob("*.safetensors"):
        if ".fp16" not in file.name:
            file.rename(file.with_name(file.name.replace(".safetensors", ".ema.safetensors")))
        else:
            file.unlink()
    refused(tmp_path / "both", r"could not read its unet \(diffusion_pytorch_model.ema.safetensors is another variant")


@pytest.mark.parametrize("half", [False, True])
def test_sharded_weights(half: bool, text: Path, tmp_path: Path) -> None:
    pipeline = tiny_hub.sd15()
    options: dict[str, Any] = {"variant": "fp16"} if half else {}
    if half:
        pipeline.to(torch.float16)
    pipeline.save_pretrained(tmp_path / "shards", max_shard_size="10KB", **options)
    for part in ("unet", "vae", "text_encoder"):
        assert len(list((tmp_path / "shards" / part).glob("*-of-*.safetensors"))) > 1
    if half:
        pipeline.save_pretrained(tmp_path / "whole", **options)
    assert identity(tmp_path / "shards") == identity(tmp_path / "whole" if half else text)


def test_pickled_weights_are_read_without_running_code(pixel: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(pixel, tmp_path / "pickled")
    unet = tmp_path / "pickled" / "unet"
    shutil.rmtree(unet)
    pixel_unet().save_pretrained(unet, safe_serialization=False)
    words = "diffusion_pytorch_model.bin is pickled; only safetensors are read, unless trust=True .*save_pretrained"
    refused(tmp_path / "pickled", words)
    assert identity(tmp_path / "pickled", trust=True) == identity(pixel)

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    (unet / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Hostile()}))
    refused(tmp_path / "pickled", "could not read its unet", trust=True)
    torch.save({"a": Hostile()}, unet / "diffusion_pytorch_model.bin")
    refused(tmp_path / "pickled", "could not read its unet", trust=True)
    shutil.copytree(text, tmp_path / "encoder")
    (tmp_path / "encoder/text_encoder/model.safetensors").unlink()
    torch.save({"a": Hostile()}, tmp_path / "encoder/text_encoder/pytorch_model.bin")
    refused(tmp_path / "encoder", "could not read its text encoder", trust=True)
    assert not (tmp_path / "run").exists()


def test_pointers_of_git_are_no_weights(pixel: Path, tmp_path: Path) -> None:
    shutil.copytree(pixel, tmp_path / "clone")
    file = tmp_path / "clone/unet/diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167534\n")
    refused(tmp_path / "clone", "is a pointer of git-lfs and not the weights; run git lfs pull")


def test_only_half_precision_is_fetched_where_the_hub_has_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    hub, cache = tmp_path / "hub", tmp_path / "cache"
    tiny_hub.sdxl_turbo().to(torch.float16).save_pretrained(hub, variant="fp16")
    (hub / "unet/model.onnx").write_bytes(b"not weights")
    asked: list[str] = []

    def download(repo: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        asked.extend(allow_patterns)
        for path in hub.rglob("*"):
            name = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_prior("hf:someone/turbo", device="cpu").identity == identity(hub)
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} <= {".json", ".txt", ".safetensors", ".jinja"}
    assert asked.index("unet/diffusion_pytorch_model.safetensors") < asked.index(
        "unet/diffusion_pytorch_model.fp16.safetensors"
    )


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_the_safety_checker_is_not_needed(text: Path, tmp_path: Path) -> None:
    """As saved with one, and downloaded without it."""
    shutil.copytree(text, tmp_path / "checked")
    edit(
        tmp_path / "checked/model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"], requires_safety_checker=True,
        feature_extractor=["transformers", "CLIPImageProcessor"], image_encoder=[None, None],
    )  # fmt: skip
    assert identity(tmp_path / "checked") == identity(text)


def test_old_pipelines_keep_their_network_beside_the_index(pixel: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(pixel / "unet", old)
    shutil.copy(pixel / "scheduler/scheduler_config.json", old)
    shutil.copy(pixel / "model_index.json", old)
    assert identity(old) == identity(pixel)


def test_a_decoder_exchanged_by_hand_is_named(text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "swapped")
    shutil.rmtree(tmp_path / "swapped/vae")
    tiny_hub.tiny_vae().save_pretrained(tmp_path / "swapped/vae")
    refused(
        tmp_path / "swapped", "says that its vae is AutoencoderKL, the config of that part AutoencoderTiny; correct"
    )
    edit(tmp_path / "swapped/model_index.json", vae=["diffusers", "AutoencoderTiny"])
    prior = load_prior(f"hf:{tmp_path / 'swapped'}", device="cpu")
    x0 = torch.randn(1, 4, 8, 8, generator=seeds(0)[0])
    close(prior.decode(x0), (tiny_hub.tiny_vae().decode(x0).sample / 2 + 0.5).clamp(0, 1), 1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no network": (lambda f: shutil.rmtree(f / "unet"), r"its unet \(UNet2DConditionModel\) is not there.* with unet/\*"),
    "no decoder": (lambda f: shutil.rmtree(f / "vae"), r"its vae \(AutoencoderKL\) is not there"),
    "no encoder": (lambda f: shutil.rmtree(f / "text_encoder"), r"its text_encoder \(CLIPTextModel\) is not there"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), r"its tokenizer is not there; fetch the folder again"),
    "null encoder": (lambda f: edit(f / INDEX, text_encoder=[None, None]), "text_encoder is None; .* one of CLIPTextModel,"),
    "other encoder": (lambda f: edit(f / INDEX, text_encoder=["transformers", "T5EncoderModel"]), "is T5EncoderModel; a"),
    "no weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "there are no weights in its folder"),
    "other pipeline": (lambda f: edit(f / INDEX, _class_name="StableDiffusionXLPipelin"), 'mean "StableDiffusionXLPipeline"'),
    "onnx pipeline": (lambda f: edit(f / INDEX, _class_name="OnnxStableDiffusionPipeline"), "networks are ONNX's, and grad"),
    "not xl": (lambda f: edit(f / INDEX, _class_name="StableDiffusionXLPipeline"), "no addition_embed_type .*belongs to a S"),
    "scheduler": (lambda f: edit(f / SCHEDULER, _class_name="DDIMSchedular"), 'no scheduler "DDIMSchedular"; did you mean "DDIM'),
    "no class": (lambda f: edit(f / SCHEDULER, _class_name="StableDiffusionPipeline"), 'has no scheduler "StableDiffusionP'),
    "betas": (lambda f: edit(f / SCHEDULER, beta_schedule="round"), "diffusers refuses the settings of its PNDMScheduler"),
    "target": (lambda f: edit(f / SCHEDULER, prediction_type="v_predict"), 'expected one of .*; did you mean "v_prediction"'),
    "sigmas": (lambda f: edit(f / SCHEDULER, _class_name="EDMEulerScheduler"), "levels of EDMEulerScheduler are not supp"),
    "edited config": (lambda f: edit(f / "text_encoder/config.json", hidden_size=8), "the shapes of its weights are not"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_pipelines_are_refused_in_a_sentence(what: str, text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "broken")
    breaks, words = BROKEN[what]
    breaks(tmp_path / "broken")
    refused(tmp_path / "broken", words)


def test_onnx_beside_or_in_place_of_weights(text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "onnx")
    weights = tmp_path / "onnx/unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("model.onnx"))
    refused(
        tmp_path / "onnx", r"could not read its unet \(model.onnx is no file of PyTorch, and gradients are needed; give"
    )
    (tmp_path / "only/unet").mkdir(parents=True)
    (tmp_path / "only/unet/model.onnx").write_bytes(b"")
    refused(
        tmp_path / "only", "neither model_index.json .*; unet/model.onnx is ONNX, and gradients of PyTorch are needed"
    )


def test_broken_pipelines_of_xl(xl: Path, tmp_path: Path) -> None:
    for i, (breaks, words) in enumerate([
        (lambda f: shutil.rmtree(f / "text_encoder_2"), r"its text_encoder_2 \(CLIPTextModelWithProjection\) is not there"),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), "its tokenizer_2 is not there"),
        (lambda f: edit(f / INDEX, text_encoder=[None, None]), "its text_encoder is None"),
        (lambda f: edit(f / INDEX, _class_name="StableDiffusionPipeline"), "reads what addition_embed_type = text_time"),
        (lambda f: edit(f / INDEX, text_encoder_2=["transformers", "CLIPTextModel"]), "sums a prompt up in 24 .* reads 12"),
    ]):  # fmt: skip
        shutil.copytree(xl, tmp_path / str(i))
        breaks(tmp_path / str(i))
        refused(tmp_path / str(i), words)


def test_folders_that_are_no_pipeline(text: Path, tmp_path: Path) -> None:
    refused(text.parent, "neither model_index.json")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither model_index.json")
    shutil.copytree(text, tmp_path / "outer/inner")
    refused(tmp_path / "outer", rf"neither model_index.json .*; did you mean hf:{tmp_path}/outer/inner\?")
    shutil.copytree(text, tmp_path / "models--a--b/snapshots/abc")
    refused(tmp_path / "models--a--b", r"did you mean hf:.*/models--a--b/snapshots/abc\?")
    refused(
        text / "vae",
        rf"its network is AutoencoderKL; supported are UNet2DModel.*; did you mean the pipeline, hf:{text}\?",
    )
    refused(text / "text_encoder", "its config.json is of a CLIPTextModel of transformers and of no image prior")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/v1-5-pruned.safetensors").write_bytes(b"")
    refused(
        tmp_path / "one", "v1-5-pruned.safetensors alone is no pipeline: if it is a checkpoint in one file, from_single"
    )
    refused(tmp_path / "one/v1-5-pruned.safetensors", "is a file; a prior is the folder of a pipeline")


def test_the_command_line_refuses_with_code_2(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(text, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken/vae")
    words = ["see", "builtin:lite0", "logits:1", "--method", "klsc", "--out", str(tmp_path / "run")]
    assert main([*words, "--prior", f"hf:{tmp_path / 'broken'}", "--device", "cpu"]) == 2
    assert "its vae (AutoencoderKL) is not there" in capsys.readouterr().err.replace("\n", " ")
    assert not list((tmp_path / "run").rglob("*.png")) if (tmp_path / "run").exists() else True
