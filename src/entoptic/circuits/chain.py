"""`Chain`: the blocks of a network that hand one tensor from each to the next, and what runs before and after them.

Which modules these are is read off one forward pass: a block's input is the very tensor that the block before put out. The
network is never changed for good: what runs behind the blocks runs on any tensor while the blocks' `forward` is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.taps import is_activation


class _Reached(Exception):
    """Raised in a hook to end a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of a chain.

    Attributes:
        names: modules that run one after the other, each on what the one before put out; one for a block.
        adds: whether it adds to its input (a skip connection), so that what goes on is input + contribution.
        composite: whether it is a block of several layers.
    """

    names: tuple[str, ...]
    adds: bool
    composite: bool

    @property
    def name(self) -> str:
        """Its first module's name."""
        return self.names[0]

    @property
    def last(self) -> str:
        """Its last module's name: what that puts out is what the link puts out."""
        return self.names[-1]


@dataclass
class _Call:
    """What a module was given and put out, each with its version: an operation in place changes it."""

    given: Tensor
    version: int
    out: Tensor
    version_out: int

    def leads_to(self, later: _Call) -> bool:
        """Whether a later module is given what this one put out, unchanged."""
        return self.out is later.given and self.version_out == later.version


class Chain:
    """The chain of a model's blocks.

    Args:
        model: the network.

    Attributes:
        links: in the order in which they run.
        odd: what the first block does that no node may do, "" where every block may be one.

    Raises:
        UserError: no two modules hand one tensor on.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._modules = dict(model.module.named_modules())
        self.odd = ""
        self.links: tuple[Link, ...] = tuple(self._find())

    # --- running it -----------------------------------------------------------------------------------------------

    def stem(self, images: Tensor) -> Tensor:
        """Computes what the first link is given.

        Args:
            images: B×3×H×W in [0, 1] of the input size.
        """
        kept: list[Tensor] = []

        def stop(_module: Any, args: tuple[Any, ...]) -> None:
            kept.append(args[0].clone())
            raise _Reached

        handle = self._modules[self.links[0].name].register_forward_pre_hook(stop)
        try:
            with self.model.frozen():
                self.model.module(self.model.normalise(images))
        except _Reached:
            pass
        finally:
            handle.remove()
        return kept[0]

    def run(self, link: Link, stream: Tensor) -> Tensor:
        """Computes what a link puts out for an input; the input is not changed."""
        out = stream.clone()
        with self.model.frozen():
            for name in link.names:
                out = self._modules[name](out)
        return out

    def module(self, name: str) -> nn.Module:
        """Returns a module by its name."""
        return self._modules[name]

    def tail(self, stream: Tensor) -> Tensor:
        """Computes the logits from what the last link puts out.

        Args:
            stream: B×…, as the last link puts it out.

        Returns:
            B×K.
        """
        card = self.model.card
        blank = stream.new_zeros((len(stream), card.channels, *card.size))
        names = [name for link in self.links for name in link.names]
        skipped: dict[str, Callable[..., Tensor]] = {name: lambda x, *_, **__: x for name in names}
        skipped[names[-1]] = lambda *_, **__: stream.clone()
        with self.model.frozen(), _replaced(self._modules, skipped):
            return self.model.logits_of(self.model.module(self.model.as_input(blank)))

    # --- finding it -----------------------------------------------------------------------------------------------

    def _find(self) -> Iterator[Link]:
        calls, end = self._calls()
        rows = (self._longest(self._expand(name, calls), calls) for name in self._modules)
        names = max(rows, key=lambda row: (sum(map(self._is_composite, row)), len(row)))
        if names and calls[names[-1]].out is end:  # the classifier itself belongs to what runs behind the blocks
            names = names[:-1]
        composite = [name for name in names if self._is_composite(name)]
        if composite:  # the stem before and the head behind the blocks are no blocks
            names = names[names.index(composite[0]) : names.index(composite[-1]) + 1]
        groups: list[list[str]] = []
        for name in names:
            if groups and name not in composite and not self._has_weights(name) and groups[-1][0] not in composite:
                groups[-1].append(name)
            else:
                groups.append([name])
        while groups and not composite and not self._has_weights(groups[0][0]):
            groups.pop(0)
        while (
            groups
            and len(groups[-1]) > 1
            and not self._has_weights(groups[-1][-1])
            and _is_pooled(calls[groups[-1][-1]].out)
        ):
            groups[-1].pop()  # what pools and flattens belongs to what runs behind the blocks
        if not groups or (len(groups) < 2 and not composite):
            raise UserError(
                f"{self.model.card.name}: no circuit can be read, for no two of its modules hand one tensor from one to "
                f"the next; {self.odd or 'wrap its blocks in an nn.Sequential'}"
            )
        for group in groups:
            whole = group[0] in composite
            yield Link(names=tuple(group), adds=whole and self._adds(group[0], calls[group[0]].given), composite=whole)

    def _calls(self) -> tuple[dict[str, _Call], Any]:
        """Input and output of each module that takes and gives one tensor, in the order of the calls, and the output."""
        self.model.layers  # noqa: B018 (the first pass finds the memory format)
        names = {id(m): name for name, m in self._modules.items()}
        calls: dict[str, _Call] = {}
        times: Counter[str] = Counter()
        versions: dict[str, int] = {}
        odd: dict[str, str] = {}

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                versions[names[id(module)]] = args[0]._version

        def leave(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            name = names[id(module)]
            times[name] += 1
            if len(args) != 1 or not isinstance(args[0], Tensor):
                odd[name] = "is not given one tensor"
            elif not isinstance(out, Tensor):
                odd[name] = f"gives a {type(out).__name__}, where a block gives one tensor"
            else:
                calls[name] = _Call(args[0], versions[name], out, out._version)

        handles = [m.register_forward_pre_hook(enter) for m in self._modules.values()]
        handles += [m.register_forward_hook(leave) for m in self._modules.values()]
        grey = torch.full((2, 3, *self.model.card.size), 0.5, device=self.model.device)
        try:
            with self.model.frozen(), torch.no_grad():
                end = self.model.module(self.model.normalise(grey))
        finally:
            for handle in handles:
                handle.remove()
        odd |= {name: f"runs {count} times, where a node runs once" for name, count in times.items() if count > 1}
        self.odd = next((f"{name} {what}" for name, what in odd.items() if name and self._is_composite(name)), "")
        return {name: call for name, call in calls.items() if times[name] == 1}, end

    def _expand(self, name: str, calls: dict[str, _Call]) -> list[str]:
        """The modules inside a module, in order; those that are plain rows of others are unfolded too."""
        prefix = f"{name}." if name else ""
        found: list[str] = []
        for child, module in self._modules[name].named_children():
            full = prefix + child
            plain = type(module) in (nn.Sequential, nn.ModuleList)
            if plain or (full in calls and self._is_row(full, calls)):
                found += self._expand(full, calls)
            elif full in calls:
                found.append(full)
            elif any(True for _ in module.children()):
                found += self._expand(full, calls)
        return found

    def _is_row(self, name: str, calls: dict[str, _Call]) -> bool:
        """Whether a module only runs its children one after the other, and some of them are blocks."""
        inner = [f"{name}.{child}" for child, _ in self._modules[name].named_children() if f"{name}.{child}" in calls]
        if not any(self._is_composite(child) for child in inner):
            return False
        own = calls[name]
        first, last = calls[inner[0]], calls[inner[-1]]
        whole = (own.given is first.given, last.out is own.out and last.version_out == own.version_out)
        return all(whole) and all(calls[a].leads_to(calls[b]) for a, b in pairwise(inner))

    def _longest(self, names: Sequence[str], calls: dict[str, _Call]) -> list[str]:
        """The longest row of modules of which each is given what the one before put out."""
        best: list[str] = []
        row: list[str] = []
        for name in sorted(names, key=list(calls).index):
            row = [*row, name] if row and calls[row[-1]].leads_to(calls[name]) else [name]
            best = max(best, row, key=lambda r: (sum(map(self._is_composite, r)), len(r)))
        return best

    def _is_composite(self, name: str) -> bool:
        """Whether a module contains layers with weights."""
        return any(
            any(True for _ in child.parameters(recurse=False)) and not is_activation(child)
            for child in self._modules[name].modules()
            if child is not self._modules[name]
        )

    def _has_weights(self, name: str) -> bool:
        return any(p.ndim > 1 for p in self._modules[name].parameters())

    def _adds(self, name: str, given: Tensor) -> bool:
        """Whether a block has a skip connection: with every layer inside put to 0 it still hands its input on."""
        block = self._modules[name]
        silent = [m for m in block.modules() if any(True for _ in m.parameters(recurse=False)) and not is_activation(m)]

        def zero(_module: nn.Module, _args: Any, out: Any) -> Any:
            return out * 0 if isinstance(out, Tensor) else tuple(o * 0 if isinstance(o, Tensor) else o for o in out)

        handles = [m.register_forward_hook(zero) for m in silent if m is not block]
        x = torch.rand_like(given) + 0.5
        try:
            with self.model.frozen(), torch.no_grad():
                out = block(x.clone())
        finally:
            for handle in handles:
                handle.remove()
        return out.shape == x.shape and bool(torch.allclose(out, x))


def _is_pooled(out: Tensor) -> bool:
    """Whether a tensor has at most one position for each picture."""
    return out.ndim <= 2 or out[0, 0].numel() == 1


@contextmanager
def _replaced(modules: dict[str, nn.Module], forwards: dict[str, Callable[..., Tensor]]) -> Iterator[None]:
    """Replaces the `forward` of modules inside the context."""
    before = {name: modules[name].__dict__.get("forward") for name in forwards}
    try:
        for name, forward in forwards.items():
            modules[name].__dict__["forward"] = forward
        yield
    finally:
        for name, old in before.items():
            if old is None:
                modules[name].__dict__.pop("forward", None)
            else:
                modules[name].__dict__["forward"] = old
