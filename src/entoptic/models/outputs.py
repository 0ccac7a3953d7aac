"""Which tensor in a network's output holds its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from entoptic.errors import NotAvailable, nearest

Choice = str | int | Callable[[Any], Tensor]
"""How a card chooses among several outputs: a key or attribute, a position, or a function of the output."""

KNOWN = ("logits", "logit", "class_logits", "cls_logits", "pred_logits", "preds", "scores")
"""Names of logits in dicts and output objects, in the order in which they are looked up."""


def logits_in(output: Any, choice: Choice | None = None) -> Tensor:
    """Returns the logits B×K in what a network puts out.

    Args:
        output: a tensor, a dict, an object with attributes, a tuple or a list.
        choice: the card's choice, or None: then a key or attribute of `KNOWN` counts, else the only tensor of two axes.

    Raises:
        NotAvailable: there are no logits, or several tensors could be them; the message lists them.
    """
    if choice is not None:
        return _as_logits(_chosen(output, choice))
    if isinstance(output, Tensor):
        return _as_logits(output)
    parts = parts_of(output)
    named = [name for name in KNOWN if name in parts]
    if named:
        return _as_logits(parts[named[0]])
    rows = {name: value for name, value in parts.items() if value.ndim == 2}
    if len(rows) == 1:
        return _as_logits(next(iter(rows.values())))
    what = "no tensor of logits B×K" if not rows else "several tensors that could be its logits"
    raise NotAvailable(
        f"it puts out {what}: {_listed(parts)}; choose one with Card(output=…), a key, a position or a function"
    )


def parts_of(output: Any) -> dict[str | int, Tensor]:
    """Returns the tensors in an output by key, attribute or position; those of nested dicts and lists as "a.b"."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, Mapping):
        items: list[tuple[Any, Any]] = list(output.items())
    elif hasattr(output, "_asdict"):
        items = list(output._asdict().items())
    elif isinstance(output, (tuple, list)):
        items = list(enumerate(output))
    else:
        items = [(name, value) for name, value in vars(output).items()] if hasattr(output, "__dict__") else []
    found: dict[str | int, Tensor] = {}
    for name, value in items:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, (Mapping, tuple, list)) or hasattr(value, "_asdict"):
            found |= {f"{name}.{inner}": tensor for inner, tensor in parts_of(value).items()}
    return found


def _chosen(output: Any, choice: Choice) -> Tensor:
    if callable(choice):
        try:
            chosen = choice(output)
        except Exception as error:
            kind = f"{type(error).__name__}: {str(error)[:200]}"
            raise NotAvailable(
                f"the card's output function failed ({kind}) on what the network puts out: {_listed(parts_of(output))}"
            ) from error
        if not isinstance(chosen, Tensor):
            raise NotAvailable(f"the card's output function returned a {type(chosen).__name__}, expected a tensor B×K")
        return chosen
    parts = parts_of(output)
    if choice not in parts:
        near = nearest(str(choice), map(str, parts))
        raise NotAvailable(f'its card names the output "{choice}", which is not there: {_listed(parts)}{near}')
    return parts[choice]


def _as_logits(tensor: Tensor) -> Tensor:
    if tensor.ndim != 2:
        raise NotAvailable(
            f"expected logits of shape B×K, the network gives {tuple(tensor.shape)}; "
            "wrap it in a module that returns one row of logits per picture"
        )
    if not tensor.shape[1]:
        raise NotAvailable("it puts out rows without a number")
    if tensor.is_complex():
        raise NotAvailable(
            "its logits are complex numbers, which have no order; choose real ones, as Card(output=lambda z: z.abs())"
        )
    return tensor


def _listed(parts: Mapping[str | int, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in parts.items()) or "no tensors"
