"""`Model`: a frozen network together with its card."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from entoptic.errors import NotAvailable, UserError, closest, counted, nearest
from entoptic.models.card import Card
from entoptic.models.fingerprint import LAYERS, fingerprint, structure, values
from entoptic.models.outputs import logits_in, parts_of
from entoptic.models.running import (
    buffers_kept,
    check_is_loaded,
    check_repeats,
    evaluating,
    first_line,
    network_errors,
    unwrapped,
)
from entoptic.models.taps import LayerInfo, Tap, Taps, channels_first, first_tensor, probe

Kept = TypeVar("Kept")

LOGITS = "logits"
"""The name of the network's own output in unit addresses."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, what PIL's convert("L") uses


class Model:
    """A network under study: RGB pictures in [0, 1] go in, activations come out, and the network stays as it was.

    Args:
        module: any `nn.Module` that takes B×C×H×W. Where it puts out logits B×K (a tensor, or among others, see
            `Card.output`) they are units too; its layers are in any case.
        card: its preprocessing; `weights_sha256` and `behaviour_sha256` are filled in here.
        device: where it runs; "auto" takes CUDA, then MPS, then the CPU.
        named: whether a source names the code (`builtin:`, `timm:`, `torchvision:`), so that weights identify the network.
            Else its identity includes what it computes.

    Raises:
        UserError: the network takes other inputs than its card describes.
    """

    def __init__(
        self, module: nn.Module, card: Card, *, device: str | torch.device = "auto", named: bool = False
    ) -> None:
        self.device = pick_device(device)
        module = unwrapped(module)
        check_is_loaded(card.name, module)
        self.module = module.to(self.device)
        self.card = card
        self._frozen = False
        self._takes: dict[tuple[int, int], bool] = {}
        self._memory_format = torch.channels_last
        first = next((m for m in self.module.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.in_channels != card.channels and not self._runs():
            raise UserError(
                f"{card.name}: the network takes {first.in_channels} input channels but its card describes "
                f"{card.channels}; networks with 1 (grey) or 3 (RGB) channels can be shown as pictures"
            )
        if (
            any(isinstance(p, UninitializedParameter | UninitializedBuffer) for p in self.module.parameters())
            and not self._runs()
        ):
            raise UserError(f"{card.name}: its lazy layers cannot be filled in; run it once on a picture before")
        behaviour = "" if named else self._behaviour()
        self.card = card.with_(weights_sha256=weights_sha256(self.module), behaviour_sha256=behaviour)

    def __repr__(self) -> str:
        height, width = self.card.size
        logits = "no logits" if self.why_no_logits else counted(self.outputs, "logit")
        return f"Model({self.card.name}, {height}×{width}, {counted(len(self.layers), 'layer')}, {logits})"

    def _repr_html_(self) -> str:
        card = self.card
        rows = {
            "input": f"{card.size[0]}×{card.size[1]}, mean {_few(card.mean)}, std {_few(card.std)}",
            "logits": self.why_no_logits
            or f"{self.outputs}" + (f" ({card.labels[0]} … {card.labels[-1]})" if card.labels else ""),
            "layers": f"{len(self.layers)}",
            "licence": card.licence,
            "weights": card.weights_sha256[:12],
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{k}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
        )
        return f"<b>{html.escape(card.name)}</b><table>{cells}</table>"

    # --- pictures in --------------------------------------------------------------------------------------------

    def fit(self, images: Tensor) -> Tensor:
        """Resizes pictures to the input size (bicubic, antialiased, clamped); pictures of that size are returned as they are.

        Args:
            images: B×3×H×W in [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"expected RGB pictures of shape B×3×H×W, got {tuple(images.shape)}")
        if tuple(images.shape[2:]) == self.card.size:
            return images
        return interpolate(images, self.card.size, mode="bicubic", antialias=True).clamp(0, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """Converts pictures to the network's input: grey for a one-channel network, then (x - mean) / std.

        Args:
            images: B×3×H×W in [0, 1].
        """
        if self.card.channels == 1:
            images = (images * images.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.card.mean, self.card.std))
        # channels_last makes convolutions faster and changes no value; `_probed` finds networks that cannot take it.
        return self.as_input((images - mean) / std)

    def as_input(self, values: Tensor) -> Tensor:
        """Converts normalised pictures to the type and memory format that the network takes.

        Args:
            values: B×C×H×W, normalised.
        """
        return values.to(self.dtype).contiguous(memory_format=self._memory_format)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: the type of its first floating-point parameter."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    def as_seen(self, images: Tensor) -> Tensor:
        """Converts pictures to the part of them that the network sees, as RGB.

        Args:
            images: B×3×H×W in [0, 1].

        Returns:
            B×3×H×W: unchanged for RGB networks, grey for one-channel networks.
        """
        if self.card.channels == 3:
            return images
        return (images * images.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)

    # --- activations out ----------------------------------------------------------------------------------------

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Holds the network in evaluation mode without parameter gradients; restores every flag afterwards. Re-entrant."""
        if self._frozen:
            yield
            return
        self._frozen = True
        try:
            with evaluating(self.module):
                yield
        finally:
            self._frozen = False

    def _forward(self, values: Tensor) -> Any:
        """What the network puts out for normalised pictures; what it raises is a sentence."""
        with network_errors(self.card.name, values.shape):
            return self.module(values)

    def __call__(self, images: Tensor) -> Tensor:
        """Computes logits.

        Args:
            images: B×3×H×W in [0, 1] of the input size.

        Returns:
            B×K logits.
        """
        self.outputs  # noqa: B018 (the first pass finds the memory format, and whether there are logits)
        with self.frozen():
            return self.logits_of(self._forward(self.normalise(images)))

    def takes(self, size: tuple[int, int]) -> bool:
        """Returns whether the network runs on pictures of a size, by one pass on a grey picture that is remembered.

        Args:
            size: height and width in pixels.

        Raises:
            torch.OutOfMemoryError: there is no room for one picture, which says nothing about the size.
        """
        if size not in self._takes:
            grey = torch.full((1, 3, *size), 0.5, device=self.device)
            try:
                with self.frozen(), torch.no_grad():
                    self._forward(self.normalise(grey))
                self._takes[size] = True
            except UserError:
                self._takes[size] = False
        return self._takes[size]

    def read(self, images: Tensor, taps: Iterable[Tap]) -> dict[Tap, Tensor]:
        """Reads layers in one forward pass, which ends at the deepest layer that is needed.

        Args:
            images: B×3×H×W in [0, 1] of the input size.
            taps: what to read.

        Returns:
            Per tap its values, B×C×D (D positions or tokens).
        """
        taps = tuple(dict.fromkeys(taps))
        values = self._pass(images, (source for tap in taps for source in tap.sources), None)
        derived = {tap: tap.derive(values) for tap in taps if tap.sources != (tap,)}
        return {tap: value for tap, value in values.items() if tap in taps} | derived

    def reduce(self, images: Tensor, taps: Iterable[Tap], function: Callable[[Tap, Tensor], Kept]) -> dict[Tap, Kept]:
        """Applies a function to layers' values in one forward pass, without copies of whole layers.

        Args:
            images: B×3×H×W in [0, 1] of the input size.
            taps: what to read.
            function: called with a tap and its values B×C×D during the forward pass. The values are the network's own
                memory, which it may overwrite later: the function must neither change them nor keep a view of them.

        Returns:
            Per tap what `function` returned.
        """
        return self._pass(images, taps, function)

    def _pass(
        self, images: Tensor, taps: Iterable[Tap], function: Callable[[Tap, Tensor], Any] | None
    ) -> dict[Tap, Any]:
        taps = tuple(dict.fromkeys(taps))
        inner = [tap for tap in taps if tap.layer != LOGITS]
        self.layer(LOGITS) if len(inner) < len(taps) else self.layers
        for tap in inner:
            info = self.layer(tap.layer)
            if tap.pre and info.activation is None:
                raise UserError(f'layer "{tap.layer}" does not end in an activation function, so it has no ".pre"')
        whole = len(inner) < len(taps)

        def keep(tap: Tap, output: Tensor) -> Any:
            values = channels_first(output if function else output.clone(), self.layer(tap.layer).layout)
            values = values.dequantize() if values.is_quantized else values
            values = values if values.dtype == torch.float32 else values.float()
            return function(tap, values) if function else values

        logits = None
        with self.frozen(), Taps(self.module, inner, self.layers, stop=not whole, keep=keep) as collected:
            output = self._forward(self.normalise(images))
            logits = self.logits_of(output)[:, :, None] if whole else None
        found = {tap: collected.values[tap] for tap in inner}
        if logits is not None:
            found[Tap(LOGITS)] = function(Tap(LOGITS), logits) if function else logits
        return found

    def logits_of(self, output: object) -> Tensor:
        """Finds the logits in what the network put out, see `Card.output`: B×K in float32.

        Args:
            output: of `module`.
        """
        logits = logits_in(output, self.card.output)
        return logits if logits.dtype == torch.float32 else logits.float()

    # --- what is inside -----------------------------------------------------------------------------------------

    def _runs(self) -> bool:
        """Whether the network takes pictures as its card describes them; the memory format that it takes is kept."""
        try:
            self._trial(lambda images: self.module(images))
        except UserError:
            return False
        return True

    def _trial(self, run: Callable[[Tensor], Kept]) -> Kept:
        """Runs two grey pictures through the network, in the memory format that it takes.

        Raises:
            UserError: it takes neither.
        """
        grey = torch.full((2, 3, *self.card.size), 0.5, device=self.device, dtype=torch.float32)
        errors: list[Exception] = []
        for self._memory_format in (torch.channels_last, torch.contiguous_format):
            try:
                with self.frozen(), buffers_kept(self.module), torch.no_grad():
                    return run(self.normalise(grey))
            except (torch.OutOfMemoryError, UserError):
                raise
            except Exception as error:
                errors.append(error)
        raise UserError(
            f"{self.card.name} does not run on pictures of shape {tuple(grey.shape)} ({first_line(errors[-1])}); "
            f"it must take B×{self.card.channels}×H×W of its card's size and nothing else"
        ) from errors[-1]

    def _behaviour(self) -> str:
        """The hash of what the network is made of and what it computes, see `fingerprint`."""
        card, seen = self.card, list[tuple[Tensor, Any]]()

        def read(images: Tensor) -> dict[str, Tensor]:
            # Hashes from before layers of T×B×C were served hold.
            names = [name for name, info in self.layers.items() if info.layout != "TBC"]
            picked = names[:: max(1, len(names) // LAYERS)]
            found: dict[str, Tensor] = {}
            with self.frozen(), torch.no_grad():
                taps = [Tap(name) for name in picked]
                with Taps(self.module, taps, self.layers, stop=False) as collected:
                    # Not normalised: the card's preprocessing has its own place in every key.
                    pictures = self.as_input((images.to(self.device) - 0.5) / 0.25)
                    seen.append((pictures.clone(), output := self._forward(pictures)))
            found |= {str(name): value for name, value in parts_of(output).items()}
            return found | {tap.layer: first_tensor(value) for tap, value in collected.values.items()}

        def lines() -> Iterator[str]:
            yield f"labels {card.labels} output {card.output if not callable(card.output) else 'function'}"
            yield from structure(self.module)
            try:
                yield from values(read, (card.channels, *card.size))
            except UserError as error:  # it does not run: that is said when it is used
                yield f"does not run: {type(error).__name__}"

        found = fingerprint(lines())
        for pictures, output in seen:
            with self.frozen(), torch.no_grad():
                check_repeats(card.name, self.module, pictures, output)
        return found

    @cached_property
    def _probed(self) -> tuple[dict[str, LayerInfo], int, str]:
        """Layers, number of logits, and why there are none ("" where there are)."""
        infos, output = self._trial(lambda images: probe(self.module, images))
        if self.card.no_logits:
            return infos, 0, self.card.no_logits
        try:
            count = self.logits_of(output).shape[1]
        except NotAvailable as error:
            return infos, 0, str(error)
        labels = self.card.labels
        if labels is not None and len(labels) != count:
            raise UserError(
                f"{self.card.name}: the network has {counted(count, 'logit')} but its card has {counted(len(labels), 'label')}"
            )
        return infos, count, ""

    @property
    def why_no_logits(self) -> str:
        """Why the network has no logits that a unit could be, "" where it has. Its layers are there all the same."""
        return self._probed[2]

    @property
    def layers(self) -> dict[str, LayerInfo]:
        """Every module whose output is one value or map per picture, by name, in the order the module lists them."""
        return self._probed[0]

    @property
    def outputs(self) -> int:
        """Number of logits.

        Raises:
            NotAvailable: the network has none, with the reason.
        """
        if self._probed[2]:
            raise NotAvailable(f"{self.card.name} has no logits: {self._probed[2]}")
        return self._probed[1]

    def layer(self, name: str) -> LayerInfo:
        """Returns the `LayerInfo` of a layer; `logits` is the network's own output.

        Args:
            name: of a module, or `logits`.

        Raises:
            UserError: no such layer, with the nearest name.
        """
        if name == LOGITS:
            count = self.outputs
            return LayerInfo(LOGITS, "output", (count,), "BC", count, (1, 1), 1, len(self.layers), None, False)
        if name in self.layers:
            return self.layers[name]
        if ":" in name and (of_unit := name.partition(":")[0]) in (LOGITS, *self.layers):
            raise UserError(f'a layer is expected, and "{name[:80]}" is a unit; did you mean "{of_unit}"?')
        if name and name in dict(self.module.named_modules()):
            raise UserError(
                f'layer "{name}" of {self.card.name} is not run, or puts out no value per picture; '
                f"`entoptic ls {self.card.name}` lists those that do"
            )
        close = closest(name, [LOGITS, *self.layers])
        hint = f"try `entoptic ls {self.card.name}`"
        if close is not None:
            hint = f'did you mean "{close}" ({counted(self.layer(close).channels, "channel")})?'
        raise UserError(f'no layer "{name}" in {self.card.name}; {hint}')


def _few(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{x:.3g}" for x in numbers)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Picks a device by name.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto": CUDA where there is one, then Apple's MPS, then the CPU.

    Raises:
        UserError: no such device.
    """
    if str(device) != "auto":
        try:
            picked = torch.device(device)
        except RuntimeError:
            hint = nearest(str(device), ("auto", "cpu", "cuda", "mps"))
            raise UserError(f'no device "{device}"; expected auto, cpu, cuda, cuda:1 or mps{hint}') from None
        if picked.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f'device "{device}" was asked for but CUDA is not available; expected auto or cpu')
        return picked
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def weights_sha256(module: nn.Module) -> str:
    """Hashes names, dtypes, shapes and bytes of every parameter and buffer, in the order of their names (sha256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def predictions(model: Model, pictures_N3HW: Tensor, batch_size: int = 25) -> Tensor:
    """Computes the logits of pictures of any size.

    Args:
        model: the network.
        pictures_N3HW: N×3×H×W in [0, 1].
        batch_size: pictures per forward pass.

    Returns:
        N×K float32 on the CPU.
    """
    parts = [model(model.fit(part.to(model.device))).float().cpu() for part in pictures_N3HW.split(batch_size)]
    return torch.cat(parts)
