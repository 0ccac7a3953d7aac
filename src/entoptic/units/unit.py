"""`Unit`: an address bound to a model, and the score it gives each picture."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from entoptic.base.files import file_exists, user_path
from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable, UserError, counted, nearest, printable
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.units.dictionary import Dictionary, check_feature, digest, load_dictionary
from entoptic.units.dictionary import activation as feature_activation
from entoptic.units.dictionary import pre_activation as feature_before
from entoptic.units.expand import check_index, expand
from entoptic.units.grammar import Address
from entoptic.units.suggest import read_address


@dataclass(frozen=True)
class Unit:
    """One unit of one model.

    Attributes:
        address: with one index, never a range or a label.
        layer: where it is read.
        index: its channel.
        readout: always explicit ("value" for a vector).
        label: name of a logit or of a direction, or None.
        tap: what to read in a forward pass.
        position: flat position or token, None for mean and max.
        direction: weights over the channels of the layer (C), None for a single channel.
        dictionary: whose feature number `index` this is, None for anything else.
        parts: weights and parts of a combination (see `entoptic.units.combine`), empty for anything else.
    """

    address: Address
    model: Model = field(repr=False, compare=False)
    layer: str
    index: int
    readout: str
    label: str | None
    tap: Tap
    position: int | None = None
    direction: Tensor | None = field(default=None, repr=False, compare=False)
    dictionary: Dictionary | None = field(default=None, repr=False, compare=False)
    parts: tuple[tuple[float, Unit], ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.address)

    def _repr_html_(self) -> str:
        label = f" <i>{html.escape(str(self.label))}</i>" if self.label else ""
        name, readout = html.escape(self.model.card.name), html.escape(str(self.readout))
        return f"<code>{html.escape(str(self))}</code>{label} of {name}, readout {readout}"

    @property
    def kind(self) -> str:
        """Kind of unit, as a method's card names it.

        It is "logit", "channel", "direction", "feature" (of a dictionary) or "combination".
        """
        if self.parts:
            return "combination"
        if self.dictionary is not None:
            return "feature"
        if self.direction is not None:
            return "direction"
        return "logit" if self.layer == LOGITS else "channel"

    def read(self, values_BCD: Tensor) -> Tensor:
        """Reads scores from a layer's values; half-precision values are widened.

        Args:
            values_BCD: B×C×D, as `Model.read` returns them.

        Returns:
            B scores.
        """
        map_BD = self.map(values_BCD)
        if map_BD.dtype in (torch.float16, torch.bfloat16):  # a mean in bfloat16 would make ties and hide its digits
            map_BD = map_BD.float()
        if self.position is not None:
            return map_BD[:, self.position]
        return map_BD.amax(1) if self.readout.startswith("max") else map_BD.mean(1)

    def map(self, values_BCD: Tensor) -> Tensor:
        """Returns the unit's activation at each position, before the readout: B×D.

        Args:
            values_BCD: values of the unit's tap.
        """
        if self.dictionary is not None:
            if self.address.readout.pre:
                before_BD = feature_before(self.dictionary, values_BCD, self.index)
                assert before_BD is not None  # binding refuses it
                return before_BD
            return feature_activation(self.dictionary, values_BCD, self.index)
        if self.direction is not None:
            return torch.einsum("bcd,c->bd", values_BCD, self.direction.to(values_BCD))
        return values_BCD[:, self.index]

    def start(self, values_BCD: Tensor) -> Tensor:
        """Returns where relevance starts for this unit: its positive activation where its readout reads it, else 0.

        In a picture that does not drive the unit at all it starts at the position with the largest activation, so that
        relevance still has a start (its scale does not matter).

        Args:
            values_BCD: values of the unit's tap.

        Returns:
            B×C×D.
        """
        map_BD = self.map(values_BCD)
        read_BD = torch.zeros_like(map_BD)
        if self.position is not None:
            read_BD[:, self.position] = 1
        elif self.readout.startswith("max"):
            read_BD.scatter_(1, map_BD.argmax(1, keepdim=True), 1)
        else:
            read_BD += 1
        positive_BD = map_BD.clamp_min(0) * read_BD
        best_BD = torch.zeros_like(map_BD).scatter_(
            1, map_BD.masked_fill(read_BD == 0, -torch.inf).argmax(1)[:, None], 1
        )
        start_BD = torch.where(positive_BD.sum(1, keepdim=True) > 0, positive_BD, best_BD)
        start_BCD = torch.zeros_like(values_BCD)
        if self.direction is None and self.dictionary is None:
            start_BCD[:, self.index] = start_BD
            return start_BCD
        # A direction's activation is a sum over channels: each gets its positive share. So is a feature's, with its
        # gradient as the direction, which differs from place to place (a norm is v·∂|v|/∂v).
        if self.direction is not None:
            slope_BCD = self.direction.to(values_BCD)[:, None]
        else:
            with torch.enable_grad():
                own_BCD = values_BCD.detach().requires_grad_()
                (slope_BCD,) = torch.autograd.grad(self.map(own_BCD).sum(), own_BCD)
        shares_BCD = (values_BCD * slope_BCD).clamp_min(0)
        return shares_BCD / shares_BCD.sum(1, keepdim=True).clamp_min(1e-12) * start_BD[:, None]

    @property
    def text(self) -> str:
        """The unit's string in the unit grammar."""
        return str(self)

    @cached_property
    def identity(self) -> str:
        """The unit's string and, for a direction or feature, the layer and numbers behind its file: part of cache keys."""
        if self.parts:
            behind = [part.identity for _, part in self.parts if part.identity != str(part)]
            return f"{self} [{'; '.join(behind)}]" if behind else str(self)
        if self.dictionary is not None:
            return f"{self} {self.layer} {digest(self.dictionary)}"
        if self.direction is None:
            return str(self)
        numbers = hashlib.sha256(self.direction.numpy().tobytes()).hexdigest()[:16]
        return f"{self} {self.layer} {numbers}"

    def score(self, images: Tensor) -> Tensor:
        """Scores pictures; they are resized to the input size where they differ.

        Args:
            images: B×3×H×W in [0, 1].

        Returns:
            B scores.
        """
        images = self.model.fit(images.to(self.model.device))
        return self.read(self.model.read(images, [self.tap])[self.tap])

    def before_activation(self) -> Unit | None:
        """Returns the same unit read before the activation function that ends its layer, or None where there is none."""
        return self._before

    @cached_property
    def _before(self) -> Unit | None:
        # A dictionary was found on the layer's output, so it has no meaning before the activation function. Its features
        # may have a threshold of their own.
        if self.dictionary is not None:
            if self.address.readout.pre or not hasattr(self.dictionary, "pre_activation"):
                return None
            readout = replace(self.address.readout, pre=True)
            return replace(self, address=replace(self.address, readout=readout), readout=f"{self.readout}.pre")
        if self.tap.pre or self.parts or self.model.layer(self.layer).activation is None:
            return None
        readout = replace(self.address.readout, pre=True)
        return bind_one(self.model, replace(self.address, readout=readout))

    # --- combinations -------------------------------------------------------------------------------------------------

    @property
    def terms(self) -> tuple[tuple[float, Unit], ...]:
        """Weights and parts of a combination; the unit itself with weight 1 for anything else."""
        return self.parts or ((1.0, self),)

    def __add__(self, other: Unit) -> Unit:
        """Returns the combination whose score is the sum of both scores."""
        return _combined(self, other, 1.0)

    def __sub__(self, other: Unit) -> Unit:
        """Returns the combination whose score is the difference of both scores."""
        return _combined(self, other, -1.0)

    def __mul__(self, weight: float) -> Unit:
        """Returns the combination whose score is that of the unit times a number."""
        from entoptic.units.combine import combine, is_number

        return combine([(float(weight) * w, part) for w, part in self.terms]) if is_number(weight) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Unit:
        """Returns the combination whose score is minus that of the unit."""
        return self * -1.0


def _combined(unit: Unit, other: object, sign: float) -> Unit:
    from entoptic.units.combine import combine

    return (
        combine([*unit.terms, *((sign * w, part) for w, part in other.terms)])
        if isinstance(other, Unit)
        else NotImplemented
    )


def bind(model: Model, units: str | Unit | Iterable[str | Unit]) -> list[Unit]:
    """Binds units of a model by their strings; ranges and `*` are unfolded, labels looked up, doubles dropped.

    Args:
        model: the network.
        units: one or more strings or units.

    Raises:
        UserError: unknown layer or label, an index or position out of range, an ambiguous label (all listed).
    """
    texts = [units] if isinstance(units, (str, Unit)) else list(units)
    bound: dict[str, Unit] = {}
    for text in texts:
        if isinstance(text, Unit):
            if text.model is not model:
                raise UserError(f"{text} is a unit of {text.model.card.name}, not of {model.card.name}")
            bound[str(text)] = text
            continue
        for address in expand(model, read_address(model, text)):
            unit = bind_one(model, address)
            bound.setdefault(str(unit), unit)
    if not bound:
        raise UserError("no unit was named; try logits:0")
    return list(bound.values())


def bind_one(model: Model, address: Address) -> Unit:
    """Binds one unit by an address with a single index, or a combination by that of its parts."""
    if address.kind == "sum":
        from entoptic.units.combine import bind_sum

        return bind_sum(model, address)
    if address.kind == "dir":
        return _direction(model, address)
    if address.kind == "dict":
        return _feature(model, address)
    if address.kind == "fmap":
        raise UserError(
            f"{address} is a whole feature map, which has no score; it can only be inverted: "
            f"`entoptic invert {model.card.name} {address.layer} {address.path}`"
        )
    assert isinstance(address.index, int)
    check_index(model, address, address.index)
    readout, position = _readout_of(model, address)
    label = model.card.label(address.index) if address.layer == LOGITS else None
    tap = Tap(address.layer, pre=address.readout.pre)
    return Unit(address, model, address.layer, address.index, readout, label, tap, position)


def _readout_of(model: Model, address: Address) -> tuple[str, int | None]:
    """Returns the explicit readout, and the flat position it reads if it reads one."""
    info, readout = model.layer(address.layer), address.readout
    if readout.pre and info.activation is None:
        raise UserError(f'{address}: layer "{address.layer}" does not end in an activation function, drop ".pre"')
    tail = ".pre" if readout.pre else ""
    height, width = info.grid
    tokens = info.layout in ("BTC", "BCT", "TBC", "BMTC")
    # Positions that lie on the picture: all of a map, the patches of tokens, none where the patches are not known.
    prefix, rows, columns = info.patches or (0, 0 if tokens else height, 0 if tokens else width)
    if info.grid == (1, 1):
        if readout.how not in ("", "mean", "max", "centre"):
            raise UserError(f'{address}: {address.layer} is one value per channel, so there is no "@{readout}"')
        return "value" + tail, 0
    how = readout.how or "mean"
    if how in ("mean", "max"):
        return how + tail, None
    if how in ("cls", "tok"):
        if not tokens:
            raise UserError(f"{address}: {address.layer} is a {height}×{width} map without tokens; use @ROW,COLUMN")
        if how == "cls" and info.patches and not prefix:
            raise UserError(f"{address}: {address.layer} has {rows}×{columns} patches and no class token; use @tokN")
        token = 0 if how == "cls" else readout.where[0]
        if token >= height:
            raise UserError(f"{address}: {address.layer} has tokens 0 to {height - 1}")
        return str(readout), token
    if not rows:
        raise UserError(
            f"{address}: where the {height} tokens of {address.layer} lie is not known; use @cls, @tokN, @mean or @max"
        )
    row, column = (rows // 2, columns // 2) if how == "centre" else readout.where
    if row >= rows or column >= columns:
        what = f"{rows}×{columns} patches, " if tokens else ""
        raise UserError(f"{address}: {address.layer} has {what}rows 0-{rows - 1} and columns 0-{columns - 1}")
    return (how + tail if how == "centre" else str(readout)), prefix + row * columns + column


def _direction(model: Model, address: Address) -> Unit:
    """Binds a direction of a safetensors file: tensor NAME of shape (C), metadata `layer` (or `layer.NAME`)."""
    path = user_path(address.path)
    if not file_exists(path):
        raise UserError(f"{address}: there is no file {path}")
    file = read_tensors(path)
    names, meta = list(file.tensors), file.metadata
    if address.name not in names:
        raise UserError(f'{path} holds no direction "{address.name}"{nearest(address.name, names)}')
    if file.tensors[address.name].is_complex():
        raise Unreadable(f"{address} holds complex numbers, not a direction")
    direction = file.get(address.name).float().flatten()
    layer = meta.get(f"layer.{address.name}", meta.get("layer", ""))
    if not layer:
        raise UserError(f'{path} does not say which layer it is for; its metadata needs "layer"')
    channels = model.layer(layer).channels
    if len(direction) != channels:
        raise UserError(
            f"{address} has {counted(len(direction), 'entry', 'entries')} but {layer} has {counted(channels, 'channel')}"
        )
    inner = Address("unit", layer, 0, address.readout)
    readout, position = _readout_of(model, inner)
    return Unit(address, model, layer, 0, readout, address.name, Tap(layer, address.readout.pre), position, direction)


def _feature(model: Model, address: Address) -> Unit:
    """Binds feature INDEX of a dictionary's file."""
    dictionary, index = load_dictionary(address.path, model), address.index
    assert isinstance(index, int)
    check_feature(dictionary, index, f"{address}: {address.path}")
    if address.readout.pre and not hasattr(dictionary, "pre_activation"):
        raise UserError(f'{address}: a dictionary is of what {dictionary.layer} puts out, drop ".pre"')
    inner = replace(address.readout, pre=False)
    readout, position = _readout_of(model, Address("unit", dictionary.layer, 0, inner))
    readout += ".pre" if address.readout.pre else ""
    label, tap = dictionary.names[index], Tap(dictionary.layer)
    return Unit(address, model, dictionary.layer, index, readout, label, tap, position, dictionary=dictionary)


def read_siblings(unit: Unit, values_BCD: Tensor) -> Tensor:
    """Reads every unit of the layer in the way that `unit` is read.

    Args:
        unit: gives the readout and, for a feature, the dictionary.
        values_BCD: values of the unit's tap, B×C×D.

    Returns:
        B×C, or B×K for a feature of a dictionary of K features.
    """
    if unit.dictionary is not None:
        before = getattr(unit.dictionary, "pre_activations", None) if unit.address.readout.pre else None
        values_BCD = (before or unit.dictionary.activations)(values_BCD)
    if unit.position is not None:
        return values_BCD[:, :, unit.position]
    return values_BCD.amax(2) if unit.readout.startswith("max") else values_BCD.mean(2)


def without_siblings(unit: Unit) -> str:
    """Returns the reason why a unit is not one of several of its layer or dictionary, "" where it is."""
    if unit.parts:
        return "a combination has no sibling units"
    return "a direction has no sibling units" if unit.direction is not None else ""


def slug(unit: Unit | str) -> str:
    """Returns a unique file-name form of a unit's string.

    Unsafe characters become `-`; a short hash is added where two strings could become alike.
    """
    text = str(unit)
    safe = re.sub(r"[^A-Za-z0-9._,@-]+", "-", text).strip("-.")[:80]
    if safe.replace("-", ":", 1) == text:
        return safe
    return f"{safe}-{hashlib.sha256(printable(text).encode()).hexdigest()[:6]}"
