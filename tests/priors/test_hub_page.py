"""The how-to on priors of the hub: its commands fetch what is needed, convert it, and name options that exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_hub
from entoptic import UserError
from entoptic.cli.main import main
from entoptic.images.references import References
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.network import build
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Item, make_config
from entoptic.models.model import Model
from entoptic.priors.network_prior import DiffusionPrior, TextPrior
from entoptic.priors.one_step import OneStepPrior
from entoptic.priors.sources import load_prior
from entoptic.units.unit import bind

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "hub-priors.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
JUNK = (
    "v1-5-pruned.safetensors", "sd_xl_turbo_1.0_fp16.safetensors", "unet/model.onnx", "unet/model.onnx_data",
    "safety_checker/model.fp16.safetensors", "safety_checker/model.safetensors", "vae_decoder/model.onnx",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/model.onnx",
)  # fmt: skip


def repository(folder: Path, pipeline: Any, *, pickled: bool) -> list[str]:
    """A folder with all that repositories hold, and the names of its files."""
    if pickled:
        pipeline.save_pretrained(folder, safe_serialization=False)
    else:
        pipeline.save_pretrained(folder)
        pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
        for name in JUNK:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"not weights")
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def options(words: list[str], name: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == name]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's downloads leave of tiny repositories, and what its conversions make of that."""
    from huggingface_hub.utils import filter_repo_objects

    root = tmp_path_factory.mktemp("page")
    makers = {
        "sd15": tiny_hub.sd15, "sd21": tiny_hub.sd21, "sdxl": tiny_hub.sdxl, "sdxl-turbo": tiny_hub.sdxl_turbo,
        "lcm": tiny_hub.lcm, "dit-downloaded": tiny_hub.dit, "ddpm-downloaded": tiny_hub.ddpm,
    }  # fmt: skip
    fetched = set()
    for words in (words for words in COMMANDS if words[:2] == ["hf", "download"]):
        (local,) = options(words, "--local-dir")
        name = local.removeprefix("priors/")
        files = repository(root / "hub" / name, makers[name](), pickled=name.endswith("-downloaded"))
        chosen = list(filter_repo_objects(
            files, allow_patterns=options(words, "--include"), ignore_patterns=options(words, "--exclude") or None,
        ))  # fmt: skip
        assert not set(chosen) & set(JUNK)
        for file in chosen:
            (root / local / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "hub" / name / file, root / local / file)
        fetched.add(name)
    assert fetched == set(makers)
    tiny_hub.tiny_vae().save_pretrained(root / "priors/taesd")
    conversions = [words[2] for words in COMMANDS if words[:2] == ["python", "-c"]]
    assert len(conversions) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for code in conversions:
            exec(compile(code, "hub-priors.md", "exec"), {})
    return root / "priors"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd15", TextPrior), ("sd21", TextPrior), ("sdxl", TextPrior), ("sdxl-turbo", OneStepPrior), ("lcm", OneStepPrior),
        ("dit", DiffusionPrior), ("ddpm", DiffusionPrior), ("sd15-tiny", TextPrior),
    ],
)  # fmt: skip
def test_what_the_page_downloads_is_a_prior(name: str, kind: type, downloaded: Path) -> None:
    assert isinstance(load_prior(f"hf:{downloaded / name}", device="cpu"), kind)


def test_the_pages_commands_have_options_that_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no hub in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.chdir(tmp_path)
    commands = [words[1:] for words in COMMANDS if words[0] == "entoptic"]
    assert len(commands) == 4
    for words in commands:
        assert main([*words, "--device", "cpu"]) == 2
        assert "could not fetch hf:priors/" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd15", None), ("sd21", None), ("sdxl", "reads what addition_embed_type"), ("sdxl-turbo", "UNet2DConditionModel"),
        ("dit", "UNet2DConditionModel"), ("ddpm", "UNet2DConditionModel"),
    ],
)  # fmt: skip
def test_the_pages_table_on_inverters(name: str, words: str | None, downloaded: Path) -> None:
    prior: Any = load_prior(f"hf:{downloaded / name}", device="cpu")
    if words is None:
        build(prior, 4, EntopticRecipe(hint=8))
        return
    with pytest.raises(UserError, match=words):
        build(prior, 4, EntopticRecipe(hint=8))


@pytest.mark.parametrize(
    ("method", "name", "words"),
    [
        ("prompt", "dit", "reads no text"), ("prompt-words", "ddpm", "reads no text"), ("prompt-class", "sdxl", "class"),
        ("prompt-class", "sdxl-turbo", "class"), ("prompt", "lcm", "is a consistency function"),
    ],
)  # fmt: skip
def test_the_pages_table_on_methods(method: str, name: str, words: str, downloaded: Path, tiny: Model) -> None:
    prior = load_prior(f"hf:{downloaded / name}", device="cpu")
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(tiny, "logits:1")]
    context = Context(model=tiny, references=References(tiny, None), prior=prior)
    card = find_method(method)
    with pytest.raises(UserError, match=words):
        list(card.function(items, make_config(card, {}), context))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["klsc-twisted", "prompt", "energydps"])
def test_methods_run_on_a_tiny_xl(method: str, downloaded: Path, tiny: Model) -> None:
    prior = load_prior(f"hf:{downloaded / 'sdxl'}", device="cpu", prompt="a cat")
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(tiny, "logits:1")]
    context = Context(model=tiny, references=References(tiny, None), prior=prior)
    card = find_method(method)
    small: dict[str, Any] = {
        "klsc-twisted": {"steps": 5, "bank": 100, "particles": 8, "islands": 2, "nats": 0.3},
        "prompt": {"steps": 3, "bank": 100, "seeds": 1}, "energydps": {"steps": 5, "bank": 500},
    }[method]  # fmt: skip
    (draft,) = card.function(items, make_config(card, small), context)
    assert draft.failure is None
    assert draft.image is not None
    assert bool(torch.as_tensor(draft.image).isfinite().all())
