"""Layer-wise relevance propagation through any network, without changing or copying it.

A `Tape` records the operations of one forward pass; relevance then walks back over the record. The pass may serve other
ends as well (a loss and its gradient), so relevance costs no second forward pass of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from entoptic.base.gradients import with_gradients
from entoptic.errors import UserError
from entoptic.models.model import LOGITS, Model
from entoptic.models.operations import (
    CONSTANT,
    Operation,
    float_tensors,
    multi_head_attention,
    operation_name,
    out_of_place,
    overlap,
)
from entoptic.models.rule_tables import KIND_OF, ZPLUS, Rules
from entoptic.models.rules import taylor
from entoptic.models.taps import Tap, as_laid_out, batch_first, channels_first, first_tensor, is_scripted


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance found by one walk back; everything is detached.

    Attributes:
        maps: relevance of the values that each tap reads, B×C×D.
        start: sum of the relevance put in, per picture (B).
        image: relevance of the network's normalised input, B×3×H×W (B×1×H×W for grey networks), or None.
        unruled: names of operations without a rule of their own; they were given gradient × input.
    """

    maps: dict[Tap, Tensor]
    start: Tensor
    image: Tensor | None = None
    unruled: tuple[str, ...] = ()

    def residual(self) -> dict[Tap, Tensor]:
        """Computes (Σ map - start) / |start| per tap and picture (B): 0 where the layer holds all relevance.

        It has a meaning where the layer is a cut of the network: where every path from the start passes it. A picture
        whose start is 0 has the residual 0 where the layer holds 0, too, and an infinite one where it holds anything.
        """
        start, found = self.start, {}
        for tap, m in self.maps.items():
            gap = m.double().flatten(1).sum(1) - start
            found[tap] = torch.where(gap == 0, 0.0, gap / start.abs())
        return found


class Tape(AbstractContextManager["Tape"]):
    """Records the operations of the last forward pass of `model` that runs inside the context.

        with Tape(model, taps) as tape:
            values = model.read(images, taps)      # autograd may be on
        found = tape.relevance({tap: start}, taps)

    Values are those of the pass without the tape: operations in place are replaced by others that leave their
    operand alone, and every later use of the operand sees the new value.

    Args:
        model: the network.
        taps: the layers where relevance may start or be read.
    """

    def __init__(self, model: Model, taps: Iterable[Tap]) -> None:
        self._model = model
        self._taps = tuple(dict.fromkeys(taps))
        for tap in self._taps:
            if tap.pre and model.layer(tap.layer).activation is None:
                raise UserError(f'layer "{tap.layer}" does not end in an activation function, so it has no ".pre"')
            model.layer(tap.layer)
        self._handles: list[Any] = []
        self._mode: _Recorder | None = None
        self._clear(None)

    def _clear(self, picture: Tensor | None) -> None:
        self.steps: list[Operation] = []
        self._picture = picture
        self._read: dict[Tap, Tensor] = {}
        self._calls: dict[Tap, int] = {}
        # By identity of tensors, which stay alive here: the step that made it (-1: the picture), and, for operands of
        # operations in place, what they hold now.
        self._made_by: dict[int, int] = {} if picture is None else {id(picture): -1}
        self._now: dict[int, Tensor] = {}
        self._overwritten: dict[int, list[Tensor]] = {}

    def __enter__(self) -> Tape:
        root, modules = self._model.module, dict(self._model.module.named_modules())
        if scripted := [name or "the network itself" for name, m in modules.items() if is_scripted(m)]:
            raise UserError(f"relevance cannot look into TorchScript ({scripted[0]} of {self._model.card.name})")
        if quantised := [name for name, m in modules.items() if ".quantized." in f"{type(m).__module__}."]:
            raise UserError(
                f"relevance cannot look into whole numbers ({quantised[0]} of {self._model.card.name} is quantised)"
            )
        self._handles = [root.register_forward_pre_hook(lambda _m, args: self._clear(args[0]))]
        for tap in self._taps:
            info = self._model.layer(tap.layer)
            if tap.pre:
                assert info.activation is not None
                self._handles.append(
                    modules[info.activation].register_forward_pre_hook(
                        lambda _m, args, tap=tap, last=info.activation_call: self._mark(tap, args[0], last)
                    )
                )
            else:
                self._handles.append(
                    (root if tap.layer == LOGITS else modules[tap.layer]).register_forward_hook(
                        lambda _m, _a, out, tap=tap, last=info.calls: self._mark(tap, first_tensor(out), last)
                    )
                )
        self._mode = _Recorder(self)
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._mode is not None
        self._mode.__exit__(kind, error, trace)
        self._mode = None  # no cycle: the activations go as soon as the tape goes
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _mark(self, tap: Tap, tensor: Tensor, last: int) -> None:
        self._calls[tap] = self._calls.get(tap, 0) + 1
        if self._calls[tap] == last:
            self._read[tap] = self._now.get(id(tensor), tensor)

    # --- recording --------------------------------------------------------------------------------------------------

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one operation and records it where it depends on the picture."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for i in tensors:
            leaves[i] = self._now.get(id(leaves[i]), leaves[i])
            self._check_alias(leaves[i])
        slots = tuple(i for i in tensors if id(leaves[i]) in self._made_by)
        name = operation_name(function)
        if not slots:
            return function(*args, **kwargs)
        args, kwargs = tree_unflatten(leaves, spec)
        if name in CONSTANT:
            return function(*args, **kwargs)
        pure, (args, kwargs) = out_of_place(function, name, args, kwargs)
        if pure is not None:
            leaves, spec = tree_flatten((args, kwargs))
            slots = tuple(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and id(x) in self._made_by)
        elif kwargs.get("out") is not None:
            raise UserError(f"relevance cannot follow {name}(…, out=…), which overwrites a tensor of the caller")
        run = pure or function
        out = run(*args, **kwargs)
        given = {id(x) for x in leaves if isinstance(x, Tensor)}
        outputs = tuple(float_tensors(out))
        if pure is not None:
            self._overwrite(args[0], out)
        elif any(id(x) in given for x in outputs):
            return out  # dropout in evaluation, contiguous() of contiguous: the same tensor, nothing happened
        if outputs:
            inputs = tuple(leaves[i] for i in slots)
            made = [self._made_by[id(x)] for x in inputs]
            sources = tuple(self.steps[m].name if m >= 0 else "" for m in made)
            for x in outputs:
                self._made_by[id(x)] = len(self.steps)
            self.steps.append(Operation(name, run, tuple(leaves), spec, slots, inputs, sources, outputs))
        return None if name == "setitem" else out

    def _overwrite(self, operand: Tensor, value: Tensor) -> None:
        """Records that `operand` holds `value` from now on, under each of its former names."""
        for key, now in self._now.items():
            if now is operand:
                self._now[key] = value
        self._now[id(operand)] = value
        self._overwritten.setdefault(operand.untyped_storage().data_ptr(), []).append(operand)

    def _check_alias(self, tensor: Tensor) -> None:
        """Refuses a view of overwritten memory, which would have changed in the plain pass."""
        for other in self._overwritten.get(tensor.untyped_storage().data_ptr(), ()):
            if overlap(tensor, other):
                raise UserError(
                    "the network writes in place to a part of a tensor and later reads it under another view; "
                    "relevance cannot follow that: build the network without in-place operations"
                )

    # --- the walk back ----------------------------------------------------------------------------------------------

    def relevance(
        self, starts: Mapping[Tap, Tensor], taps: Iterable[Tap], rules: Rules = ZPLUS, image: bool = False
    ) -> Relevance:
        """Propagates relevance to layers by walking back over the recorded pass.

        Args:
            starts: relevance put in at layers, B×C×D each, in the layout of `Model.read`.
            taps: where relevance is read.
            rules: a table of rules.
            image: whether to go on to the network's input.

        Raises:
            UserError: a tap that was not given to the tape or not reached in the pass, or a start of another shape.
        """
        taps = tuple(dict.fromkeys(taps))
        wanted = [self._value(tap) for tap in taps] + ([self._picture] if image and self._picture is not None else [])
        messages: dict[int, Tensor] = {}
        unruled: dict[str, None] = {}
        mode, self._mode = self._mode, None  # operations of the walk are not recorded
        try:
            with torch.inference_mode(False), torch.no_grad():
                total = self._put_in(starts, rules, messages)
                keep = {id(x) for x in wanted}
                first = min((self._made_by.get(id(x), -1) for x in wanted), default=len(self.steps))
                last = max((self._made_by.get(key, -1) for key in messages), default=-1)
                for step in reversed(self.steps[first + 1 : last + 1]):
                    out = [messages.get(id(x)) if id(x) in keep else messages.pop(id(x), None) for x in step.outputs]
                    if all(message is None for message in out):
                        continue
                    rule, operands = rules.of(step), step.inputs
                    if step.is_complex:  # every rule is of real numbers: real and imaginary parts are two of them
                        step, rule = step.as_real(), rules.other
                        if rule is taylor:
                            unruled[step.name] = None
                    elif step.name not in KIND_OF and rule is taylor:
                        unruled[step.name] = None
                    for x, message in zip(operands, rule(step, out, rules.eps), strict=True):
                        if message is not None:
                            known = messages.get(id(x))
                            messages[id(x)] = message if known is None else known + message
                found = [_leave(x, messages, rules) for x in wanted]
        finally:
            self._mode = mode
        pixels = found.pop() if len(found) > len(taps) else None
        layouts = [self._model.layer(tap.layer).layout for tap in taps]
        maps = {tap: channels_first(x, layout) for tap, x, layout in zip(taps, found, layouts)}
        return Relevance(maps, total, pixels, tuple(unruled))

    def _put_in(self, starts: Mapping[Tap, Tensor], rules: Rules, messages: dict[int, Tensor]) -> Tensor:
        """Fills `messages` with what leaves the starts; their sums per picture (B)."""
        totals = []
        for tap, start in starts.items():
            value, info = self._value(tap).detach(), self._model.layer(tap.layer)
            expected = channels_first(value, info.layout).shape
            if start.shape != expected:
                raise UserError(f"{tap}: relevance must start as {tuple(expected)}, got {tuple(start.shape)}")
            raw = torch.empty_like(value).copy_(as_laid_out(start.detach(), info))
            totals.append(batch_first(raw, info.layout).double().flatten(1).sum(1))
            entered, key = rules.enter(value, raw), id(self._value(tap))
            messages[key] = messages[key] + entered if key in messages else entered
        if not totals:
            raise UserError("relevance must start at some layer; `starts` is empty")
        return torch.stack(totals).sum(0)

    def _value(self, tap: Tap) -> Tensor:
        if tap not in self._read:
            what = "was not reached in the recorded pass" if tap in self._taps else "was not given to the tape"
            raise UserError(f"{tap} {what}; recorded layers: {', '.join(map(str, self._read)) or 'none'}")
        return self._read[tap]


def _leave(tensor: Tensor, messages: dict[int, Tensor], rules: Rules) -> Tensor:
    value, message = tensor.detach(), messages.get(id(tensor))
    return torch.zeros_like(value) if message is None else rules.leave(value, message)


@with_gradients
def relevance(
    model: Model,
    images: Tensor,
    starts: Mapping[Tap, Callable[[Tensor], Tensor]],
    taps: Iterable[Tap],
    *,
    rules: Rules = ZPLUS,
    image: bool = False,
) -> Relevance:
    """Propagates relevance to layers, in one forward pass and one walk back.

    Args:
        model: the network.
        images: B×3×H×W in [0, 1] of the input size.
        starts: per layer, a function from its values B×C×D to the relevance put in there, B×C×D (for a unit, its
            activation where it is read and 0 elsewhere).
        taps: where relevance is read.
        rules: `ZPLUS`, `EPSILON`, `GRADIENT`, `GUIDED` or one of them `.with_(…)` other rules.
        image: whether to return the relevance of the normalised input as well.
    """
    taps = tuple(taps)
    wanted = tuple(dict.fromkeys([*starts, *taps]))
    with torch.no_grad(), Tape(model, wanted) as tape:
        values = model.read(images, wanted)
    return tape.relevance({tap: start(values[tap]) for tap, start in starts.items()}, taps, rules, image)


def var(maps: Sequence[Tensor], target: int, temperature: float = 10, delta: float = 0.01) -> Tensor:
    """Keeps a map where it wins the competition with its rivals (VAR, arXiv:2503.07346).

    The result is `A_t · q_t · 1[q_t - 1/K > delta]` with `q = softmax_c(temperature · |A_c| / m)` over the K maps. m is the
    largest |A| of the picture over all maps jointly, so that the result scales with the maps and no map is favoured.

    Args:
        maps: one attribution per class or unit, all B×… of one shape. Competition is by size; where evidence against a
            rival must not count, give positive parts.
        target: index of the map to refine.
        temperature: of the softmax.
        delta: how far above 1/K the share of the target must lie.

    Returns:
        The refined map, B×….

    Raises:
        UserError: fewer than two maps, differing shapes, or a target that is none of them.
    """
    if len(maps) < 2 or len({m.shape for m in maps}) > 1:
        raise UserError(f"VAR needs two or more maps of one shape, got {[tuple(m.shape) for m in maps]}")
    if not 0 <= target < len(maps):
        raise UserError(f"target must be one of the {len(maps)} maps, 0 to {len(maps) - 1}, got {target}")
    stacked = torch.stack([m.detach() for m in maps])  # K×B×…
    size = stacked.abs()
    largest = size.amax(dim=[0, *range(2, size.ndim)], keepdim=True)
    q_t = (temperature * size / largest.clamp(min=torch.finfo(size.dtype).tiny)).softmax(0)[target]
    return stacked[target] * q_t * (q_t - 1 / len(maps) > delta)


class _Recorder(TorchFunctionMode):
    """Hands every torch function to the tape."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._tape._mode is None:
            return func(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **(kwargs or {}))
        return self._tape._run(func, args, kwargs or {})
