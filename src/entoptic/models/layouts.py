"""`Layouts`: which axis of a layer's output holds its units, and where on the picture its positions lie."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.Upsample, nn.PixelShuffle,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
)  # fmt: skip
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
_MOST_PREFIX_TOKENS = 16


class Layouts:
    """Finds the layouts of the outputs of one forward pass: `add` in the order in which modules end, then `of`.

    A 4-dim output may be B×C×H×W, B×H×W×C, B×M×T×C (the queries, keys or values of M heads) or B×M×T×T (attention between
    tokens). Sizes alone do not determine which. So the first of these that is known decides:

    1. the module's own parameters or type: a convolution's channels are axis 1, a linear layer's the last;
    2. a module that put out the very same tensor before (a block that ends in a known layer);
    3. the module's input, where it has the same shape (activations, dropout, residual blocks);
    4. the last module inside that put out this shape;
    5. grids of maps that are known already;
    6. the module around it, where that puts out the same shape;
    7. a square of equal sides beside a third length.
    """

    def __init__(self) -> None:
        self._of_tensor: dict[int, str | None] = {}  # by id: the probe keeps every output alive
        self._of_module: dict[str, tuple[tuple[int, ...], str | None]] = {}  # None: to be seen from outside
        self._grids: dict[tuple[int, ...], None] = {}
        self._tokens: set[tuple[int, int]] = set()

    def add(self, name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        """Records one output of a module.

        Args:
            name: of the module.
            module: the module.
            args: what it was given.
            out: B×…, with 2 to 4 axes.
        """
        layout, shape = self._find(name, module, args, out), tuple(out.shape)
        self._of_tensor[id(out)] = layout
        self._of_module.pop(name, None)  # the last call counts, and it is the latest
        self._of_module[name] = (shape, layout)
        if layout == "BTC":
            self._tokens.add((shape[1], shape[2]))
        elif layout in ("BCHW", "BHWC"):
            grid = shape[2:] if layout == "BCHW" else shape[1:3]
            # A table of attention from token to token (one for each head) is no map of the picture.
            if isinstance(module, _CHANNELS_FIRST) or not any(tokens in grid for tokens, _ in self._tokens):
                self._grids[grid] = None

    def of(self, name: str) -> str:
        """Returns the layout of a module's output, as in `LayerInfo.layout`."""
        shape, layout = self._of_module[name]
        outer = name
        while layout is None and "." in outer:
            outer = outer.rpartition(".")[0]
            around, found = self._of_module.get(outer, ((), None))
            layout = found if around == shape else None
        return layout or ("BHWC" if shape[1] == shape[2] != shape[3] else "BCHW")

    def patches(self, name: str) -> tuple[int, int, int] | None:
        """Returns (prefix tokens, rows, columns) of a module's output, as in `LayerInfo.patches`."""
        layout, shape = self.of(name), self._of_module[name][0]
        if layout in ("BCHW", "BHWC"):
            rows, columns = shape[2:] if layout == "BCHW" else shape[1:3]
            return (0, rows, columns) if rows * columns > 1 and (rows, columns) in self._grids else None
        if layout not in ("BTC", "BMTC"):
            return None
        tokens = shape[-2]
        grids = {tokens - rows * columns: (rows, columns) for rows, columns in self._grids if rows * columns > 1}
        fitting = [prefix for prefix in grids if 0 <= prefix <= min(_MOST_PREFIX_TOKENS, tokens // 2)]
        return (min(fitting), *grids[min(fitting)]) if fitting else None

    def _find(self, name: str, module: nn.Module, args: Any, out: Tensor) -> str | None:
        shape = tuple(out.shape)
        if len(shape) == 2:
            return "BC"
        if len(shape) == 4 and not isinstance(module, _CHANNELS_FIRST) and (heads := self._heads(module, shape)):
            return heads
        first, last = ("BCT", "BTC") if len(shape) == 3 else ("BCHW", "BHWC")
        axis = _own_axis(module, shape)
        if axis is not None:
            return first if axis == 1 else last
        if id(out) in self._of_tensor:
            return self._of_tensor[id(out)]
        for given in args:
            if isinstance(given, Tensor) and given.shape == out.shape and id(given) in self._of_tensor:
                return self._of_tensor[id(given)]
        for inner, (its_shape, layout) in reversed(self._of_module.items()):
            if its_shape == shape and layout and inner.startswith(name + "."):
                return layout
        if len(shape) == 3:
            return "BTC"
        if (shape[1:3] in self._grids) != (shape[2:4] in self._grids):
            return "BHWC" if shape[1:3] in self._grids else "BCHW"
        return None

    def _heads(self, module: nn.Module, shape: tuple[int, ...]) -> str | None:
        """Returns "BMTC" or "BMTT" where the sizes are those of an earlier token layer, split into heads."""
        _, heads, tokens, last = shape
        width = heads * last
        split = any((tokens, wide) in self._tokens for wide in (width, 3 * width))  # 3: the joint q, k, v layer
        between = tokens == last and any(tokens == known for known, _ in self._tokens)
        if split and not (between and isinstance(module, (nn.Dropout, nn.Softmax))):
            return "BMTC"
        return "BMTT" if between else None


def _own_axis(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Returns the axis of the units (1 or -1) where the module itself determines it."""
    if isinstance(module, _CHANNELS_FIRST):
        return 1
    dims = getattr(module, "dims", None)  # torchvision's Permute
    if type(module).__name__ == "Permute" and dims is not None and len(dims) == 4:
        return {(0, 2, 3, 1): -1, (0, 3, 1, 2): 1}.get(tuple(dims))
    if any(True for _ in module.children()):
        return None
    # Norms and scales hold one number per unit: the axis of that length, if only one has it.
    lengths = {p.numel() for p in module.parameters(recurse=False) if p.ndim and max(p.shape) == p.numel() > 1}
    if len(lengths) == 1:
        (length,) = lengths
        if (shape[1] == length) != (shape[-1] == length):
            return 1 if shape[1] == length else -1
    # timm and torchvision write "2d" in the names of layers that take maps as B×C×H×W, transformers in an attribute.
    if "2d" in type(module).__name__ or getattr(module, "data_format", "") == "channels_first":
        return 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:  # over whole maps: any axis
        return None
    return -1 if isinstance(module, _CHANNELS_LAST) else None
