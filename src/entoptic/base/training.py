"""The training loop: resumable, with a running mean of the weights and one checkpoint at a time."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from entoptic.base.files import check_inside, path_exists, write_atomically
from entoptic.base.progress import Progress, silent
from entoptic.base.records import check_fields, list_of, read_json, read_tensors, why
from entoptic.base.tracking import tell
from entoptic.errors import Unreadable, UserError

Net = TypeVar("Net", bound=nn.Module)


class Pace(Protocol):
    """The part of a recipe that the loop reads.

    Attributes:
        steps: optimisation steps in all.
        batch_size: pictures per step.
        rate: peak learning rate.
        warmup: steps over which the rate rises.
        decay: last share of the steps, over which the rate falls to 0.
        ema: decay of the running mean of the weights; 0 keeps the weights themselves.
    """

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def decay(self) -> float: ...
    @property
    def ema(self) -> float: ...


def optimise(
    what: str,
    net: Net,
    mean: Net,
    loss: Callable[[int], Tensor],
    recipe: Pace,
    folder: Path,
    record: dict[str, Any],
    optimiser: torch.optim.Optimizer,
    *,
    device: str | torch.device,
    save_every: int,
    sheet_every: int = 2000,
    sheet: Callable[[Net, Path], None] | None = None,
    minutes: float | None = None,
    precision: str = "auto",
    stop: Callable[[int], bool] | None = None,
    progress: Progress = silent,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a network from step record["step"] to recipe.steps. Saves at intervals and at the end, also after an interrupt.

    Args:
        what: the training does, for progress.
        net: the network; its parameters that require gradients are trained.
        mean: a copy of `net`, which becomes the running mean of its weights.
        loss: gives the scalar loss of step N. It must draw the same numbers for N however often the run was interrupted.
        recipe: pace of the training.
        folder: where checkpoints go.
        record: of the training, changed in place.
        optimiser: over the parameters of `net`.
        device: of `net`.
        save_every: steps from one checkpoint to the next.
        sheet_every: steps from one sheet to the next.
        sheet: draws pictures of `mean` into a file, or None.
        minutes: after so many minutes of this call it saves and returns, whatever step it has reached; None for no limit.
        precision: of the network's arithmetic: "float32", "bfloat16", or "auto", which is bfloat16 on a GPU. Weights and
            their updates stay in float32.
        stop: asked after each step, with the number of steps done, whether the training ends here; None never ends it.
        progress: called with (what, done, total).
        log: called with a line every 100 steps.

    Raises:
        UserError: a loss or gradient is not finite; the steps before are kept.
    """
    where = torch.device(device).type
    half = precision == "bfloat16" or (precision == "auto" and where == "cuda")
    parameters = [p for p in net.parameters() if p.requires_grad]
    net.train()
    started, at_start, whole = time.monotonic(), record["step"], True
    before = record.get("seconds", 0.0)
    try:
        for step in range(record["step"], recipe.steps):
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                log(f"step {step}: stopped after {minutes:g} minutes")
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * rate_factor(step, recipe)
            with torch.autocast(where, torch.bfloat16, enabled=half):
                value_now = loss(step)
            optimiser.zero_grad(set_to_none=True)
            value_now.backward()
            value = float(value_now.detach())
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise UserError(
                    f"the loss became {value} and its gradient {norm} at step {step}; the steps before are kept, "
                    f"lower rate ({recipe.rate})"
                )
            whole = False  # a step that Ctrl-C interrupts must not be saved
            optimiser.step()
            _follow(mean, net, min(recipe.ema, (1 + step) / (10 + step)))
            record["step"], whole = step + 1, True
            record["running"] = value if step == 0 else 0.99 * record.get("running", value) + 0.01 * value
            progress(what, step + 1, recipe.steps)
            if (step + 1) % 10 == 0:
                tell("train/loss", record["running"], step + 1)
            if (step + 1) % 100 == 0:
                record["loss"].append([step + 1, round(record["running"], 5)])
                pace = (time.monotonic() - started) / (step + 1 - at_start)
                log(f"step {step + 1}: loss {record['running']:.4f}, {recipe.batch_size / pace:.1f} pictures/s")
            ended = stop is not None and stop(step + 1)
            if sheet is not None and (step + 1) % sheet_every == 0:  # before the step is saved, or a kill would cost it
                _draw(sheet, mean, folder, step + 1)
            if (step + 1) % save_every == 0:
                record["seconds"] = round(before + time.monotonic() - started, 1)  # a kill must not lose it
                _save(folder, record, net, mean, optimiser)
            if ended:
                break
    finally:
        if record["step"] > at_start and whole:
            record["seconds"] = round(before + time.monotonic() - started, 1)
            _save(folder, record, net, mean, optimiser)


def _draw(sheet: Callable[[Net, Path], None], mean: Net, folder: Path, step: int) -> None:
    """Draws a sheet; a full disk costs no more than that."""
    file = check_inside(folder / "sheets" / f"{step:07d}.png", folder)
    try:
        file.parent.mkdir(exist_ok=True)
        sheet(mean, file)
    except OSError as error:
        raise UserError(
            f"the sheet {file} cannot be written ({why(error)}); the same command goes on from step {step}"
        ) from None


def rate_factor(step: int, recipe: Pace) -> float:
    """Returns the factor of the learning rate at a step, in [0, 1].

    It rises over `warmup` steps, stays at 1, and falls to 0 over the last `decay` share of the steps.
    """
    left = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps) if recipe.decay else 1.0
    return min(1.0, (step + 1) / max(1, recipe.warmup), max(left, 0.0))


def rows_of(step: int, count: int, batch_size: int, seed: int) -> list[int]:
    """Returns which pictures a step sees. Epochs are permutations, and a batch may span two of them.

    Args:
        step: its number, from 0.
        count: pictures in all.
        batch_size: pictures per step.
        seed: of the permutations.
    """
    first, rows = step * batch_size, list[int]()
    while len(rows) < batch_size:
        epoch, position = divmod(first + len(rows), count)
        order = _permutation(count, seed, epoch)
        rows += order[position : position + batch_size - len(rows)]
    return rows


_ORDERS: dict[tuple[int, int, int], list[int]] = {}


def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    key = (count, seed, epoch)
    if key not in _ORDERS:
        while len(_ORDERS) > 1:
            _ORDERS.pop(next(iter(_ORDERS)))
        draw = torch.Generator().manual_seed(seed * 7919 + epoch)
        _ORDERS[key] = torch.randperm(count, generator=draw).tolist()
    return _ORDERS[key]


@torch.no_grad()
def _follow(mean: nn.Module, net: nn.Module, decay: float) -> None:
    """Moves the running mean of the weights by 1 - decay of the way to the network's weights."""
    torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `training.json` says of the training in a folder; None where there is none."""
    about = folder / "training.json"
    if not path_exists(about):
        return None
    record = read_json(about, finite=False)
    check_fields(record, {"step": int, "loss": list}, about)
    if not list_of(record["loss"], list) or record["step"] < 0:
        raise Unreadable(f"{about} is damaged: its steps or losses are not those of a training")
    if record["step"] and not is_checkpoint(record.get("state")):
        raise Unreadable(f"{about} is damaged: it names no checkpoint")
    return record


def is_checkpoint(name: Any) -> bool:
    """Whether a name is that of a checkpoint, beside the record that names it."""
    return isinstance(name, str) and re.fullmatch(r"training-[0-9]+\.safetensors", name) is not None


def mean_weights(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """Reads the running mean of the weights from the last checkpoint of a record.

    Raises:
        Unreadable: there is no checkpoint, or it is damaged.
    """
    if not is_checkpoint(record.get("state")):
        raise Unreadable(f"{folder / 'training.json'} names no checkpoint; train again in another folder")
    state = read_tensors(folder / record["state"])
    return {k[4:]: state.get(k) for k in state.tensors if k.startswith("ema/")}


@contextlib.contextmanager
def fitting(what: Path) -> Iterator[None]:
    """Turns what torch says of weights that do not fit their network into one sentence.

    Raises:
        Unreadable: they do not.
    """
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"{what} does not fit its training ({why(error)}); choose another folder") from None


def load_state(
    folder: Path, record: dict[str, Any], net: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Puts back what the last checkpoint of `record` held.

    Raises:
        Unreadable: it is damaged, or of another network.
    """
    state = read_tensors(folder / record["state"])
    with fitting(folder / record["state"]):
        for prefix, module in (("net", net), ("ema", mean)):
            held = {k.partition("/")[2]: state.get(k) for k in state.tensors if k.startswith(prefix + "/")}
            module.load_state_dict(held)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        slots = {i: {"step": torch.tensor(float(record["step"]))} for i in range(len(parameters))}
        for i, slot in slots.items():
            slot["exp_avg"], slot["exp_avg_sq"] = (state.get(f"{m}/{i}", *parameters[i].shape) for m in "mv")
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    _delete_checkpoint(folder, record.get("before"), record["state"])  # a killed process may have left it


def _save(
    folder: Path, record: dict[str, Any], net: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Saves a checkpoint. The record is replaced last, so that a crash leaves the checkpoint before.

    Raises:
        UserError: the folder cannot be written; the checkpoint before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    state = {f"net/{k}": v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    state |= {f"ema/{k}": v.detach().cpu().contiguous() for k, v in mean.state_dict().items()}
    for i, slot in optimiser.state_dict()["state"].items():
        state |= {f"m/{i}": slot["exp_avg"].cpu().contiguous(), f"v/{i}": slot["exp_avg_sq"].cpu().contiguous()}
    name, before = f"training-{record['step']}.safetensors", record.get("state")
    before = record.get("before") if before == name else before  # the end of a training may save a step once more
    told = record | {"state": name, "before": before}
    try:
        write_atomically(check_inside(folder / name, folder), save(state))
        write_atomically(check_inside(folder / "training.json", folder), json.dumps(told, indent=1).encode())
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"step {record['step']} cannot be saved in {folder} ({error}); the checkpoint before is kept, "
            "make room and run the same command"
        ) from None
    record |= {"state": name, "before": before}
    _delete_checkpoint(folder, before, name)


def _delete_checkpoint(folder: Path, before: Any, now: str) -> None:
    """Deletes the checkpoint that another has replaced. Only a record says which files are its own."""
    if is_checkpoint(before) and before != now:
        with contextlib.suppress(OSError):
            (folder / before).unlink()
