"""Writes the three notebooks and runs them, so that their stored output is what they print.

    python docs/notebooks/make.py            # all, at the settings that readers see
    python docs/notebooks/make.py first-pictures

Cells are written here, output is stored in the .ipynb beside this file. The numbers of steps come from the environment
variable ENTOPTIC_STEPS where it is set: the tests set a small one.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

HERE = Path(__file__).parent
COLAB = "https://colab.research.google.com/github/entoptic/entoptic/blob/main/docs/notebooks/{name}.ipynb"
INSTALL = """\
import importlib.util

if importlib.util.find_spec("entoptic") is None:  # on Colab
    %pip install --quiet entoptic{extras}"""
STEPS = """\
import os

STEPS = int(os.environ.get("ENTOPTIC_STEPS", 128))  # fewer are faster and show less"""

FIRST = [
    "# First pictures\n\n"
    "What does an ImageNet classifier look for? This notebook needs no photos, no GPU and no download: the network,\n"
    "EfficientNet-Lite0, comes with the package. It takes about two minutes on two CPU cores.",
    STEPS,
    "## A network and a unit\n\nA unit is named by a string. A mistyped name is answered with the nearest one.",
    'import entoptic\n\nmodel = entoptic.load("builtin:lite0")\nmodel',
    'try:\n    entoptic.bind(model, \'logits:"goldn retriever"\')\nexcept entoptic.UserError as error:\n    print(error)',
    "## Pictures\n\nOne call makes the pictures and measures them. The same call again computes nothing.",
    "run = entoptic.see(\n"
    "    model, ['logits:\"church\"', 'logits:\"golden retriever\"'], steps=STEPS, out=\"runs/first\", progress=False\n)\n"
    "run.figure(captions=True, width=4)",
    "## How far to trust them\n\n"
    "Two networks that nothing optimised judge each picture. `n` is 2, so the interval is wide: the true share may lie\n"
    "anywhere in it.",
    'church = run[\'logits:"church"\'][0]\n'
    'for name in ("percentile", "transfer_top1", "transfer_probability"):\n'
    "    entry = church.evidence[name]\n"
    '    print(name, round(entry["value"], 2), "n", entry["n"], [round(end, 2) for end in entry["interval"]])',
    "What could not be measured says why:",
    'print(church.evidence["nats"]["reason"])',
    "## Check it\n\nEvery number can be recomputed from the saved files.",
    "print(entoptic.verify(run))",
    "All pages are in one folder that opens without a server. Next: [my own network](my-own-network.ipynb).",
    "print(entoptic.make_gallery(run.path))",
]  # fmt: skip

OWN = [
    "# My own network\n\n"
    "Any `nn.Module` will do, with a card that says how it was trained to see pictures. This notebook trains a small\n"
    "network on drawn shapes, so that everything is known, and looks at two of its units. It takes about a minute.",
    STEPS.replace("import os", "import os\n\nimport entoptic"),
    "## Photos and a network\n\nFour classes of drawn shapes, one folder a class, and a small network.",
    "from pathlib import Path\n\nimport numpy as np\nimport torch\nfrom PIL import Image, ImageDraw\n\n"
    'CLASSES = ("disc", "square", "rows", "columns")\n\n\n'
    "def drawing(name, draw, side=64):\n"
    "    ground, colour = draw.integers(0, 256, (2, 3))\n"
    "    picture = Image.new(\"RGB\", (side, side), tuple(int(c) for c in ground))\n"
    "    pen, (x, y), r = ImageDraw.Draw(picture), draw.integers(20, 44, 2), int(draw.integers(10, 18))\n"
    "    ink = tuple(int(c) for c in colour)\n"
    '    if name == "disc":\n        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)\n'
    '    elif name == "square":\n        pen.rectangle((x - r, y - r, x + r, y + r), fill=ink)\n'
    "    else:\n        for i in range(0, side, 8):\n"
    '            pen.rectangle((0, i, side, i + 3) if name == "rows" else (i, 0, i + 3, side), fill=ink)\n'
    "    return picture\n\n\n"
    "draw = np.random.default_rng(0)\n"
    "for name in CLASSES:\n"
    '    folder = Path("shapes") / name\n    folder.mkdir(parents=True, exist_ok=True)\n'
    "    for i in range(60):\n        drawing(name, draw).save(folder / f\"{i:02}.png\")",
    "from torch import nn\n\ntorch.manual_seed(0)\n"
    "network = nn.Sequential(\n"
    "    nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),\n"
    "    nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),\n)\n"
    'photos = entoptic.Photos.open("shapes")\nphotos',
    'card = entoptic.Card(name="shapes-net", size=64, mean=0.5, std=0.25, labels=CLASSES)\n'
    "model = entoptic.load(network, card)\n"
    "images = torch.cat([batch for _, batch in photos.batches(card.prepare, 60)])\n"
    "wanted = torch.tensor([CLASSES.index(photos[i].labels[0]) for i in range(len(photos))])\n"
    "optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)\n"
    "for _ in range(max(10, STEPS)):\n"
    "    rows = torch.randint(len(images), (48,))\n"
    "    loss = nn.functional.cross_entropy(network((images[rows] - 0.5) / 0.25), wanted[rows])\n"
    "    optimiser.zero_grad()\n    loss.backward()\n    optimiser.step()\n"
    "model = entoptic.load(network, card)  # again: its card holds a hash of the weights, which are new\n"
    'print(f"right on its own photos: {float((model(images).argmax(1) == wanted).float().mean()):.0%}")',
    "## Is the card right?\n\nWith a wrong mean or range pictures are wrong, and no error tells you.",
    "print(entoptic.preflight(model, photos))",
    "## Pictures of its units\n\nThe names of layers are those that PyTorch prints. `4:7` is channel 7 of the last convolution.",
    "run = entoptic.see(\n"
    '    model, [\'logits:"disc"\', \'logits:"rows"\', "4:7"], photos=photos, method="vital,retrieval", steps=STEPS,\n'
    '    verifiers="", out="runs/shapes", progress=False,\n)\n'
    'run.figure(captions=["percentile"], width=4)',
    "## What the numbers say\n\nPercentiles are taken among your photos.",
    'for picture in run.filter(method="vital"):\n'
    '    print(picture.unit, picture.label or "", round(picture["percentile"], 1), picture.evidence["percentile"]["n"])',
    "Next: [from units to a figure](units-to-a-figure.ipynb).",
]  # fmt: skip

FIGURE = [
    "# From units to a figure\n\n"
    "Several units by several methods, all numbers as one table, the pictures as a figure for a paper, and a copy that\n"
    "may be published. It takes about three minutes on two CPU cores.",
    STEPS.replace("128", "64"),
    "## Units and methods\n\nUnits as rows, methods as columns. `blocks.6:112` is a channel.",
    'import entoptic\nfrom entoptic.configs import Fourier, Maco\n\nmodel = entoptic.load("builtin:lite0")\n'
    "recipes = [Fourier(steps=STEPS), Maco(steps=STEPS, crops=4)]\n"
    "run = entoptic.see(\n"
    "    model, ['logits:\"church\"', 'logits:\"parachute\"', \"blocks.6:112\"], method=recipes,\n"
    '    out="runs/figure", progress=False,\n)\n'
    "len(run), run.failures",
    "## All numbers as a table\n\nThe column `independent` marks what networks measured that nothing optimised.",
    "import pyarrow.compute as pc\n\ntable = run.table()\n"
    'others = table.filter(pc.and_(table["independent"], pc.is_valid(table["value"])))\n'
    'means = others.group_by(["method", "evidence"]).aggregate([("value", "mean"), ("value", "count")])\n'
    "for row in means.to_pylist():\n"
    '    print(f"{row[\'method\']:8} {row[\'evidence\']:22} {row[\'value_mean\']:.2f}  n = {row[\'value_count\']}")',
    "## A figure\n\n`save` writes PDF and SVG with text that stays text, or PNG. Each caption has the interval and n.",
    'figure = run.figure(captions=["activation"], title="What three units look for", width=4.5)\n'
    'print(figure.save("figure.pdf"))\nfigure',
    "Choose what is shown by unit, method or evidence:",
    'run.filter(method="maco", evidence="rank<=1").units',
    "## A public copy\n\nWithout paths of your machine and without photos:",
    'print(entoptic.export(run, "figure-public"))\nprint(entoptic.verify("figure-public"))',
]  # fmt: skip

NOTEBOOKS: dict[str, tuple[str, list[str]]] = {
    "first-pictures": ("", FIRST), "my-own-network": ("", OWN), "units-to-a-figure": ("", FIGURE),
}  # fmt: skip


def notebook(name: str) -> Any:
    """Returns a notebook without output. Texts begin with a heading or a capital letter, code does not."""
    extras, cells = NOTEBOOKS[name]
    badge = f"[Open in Colab]({COLAB.format(name=name)})"
    made = [new_markdown_cell(f"{cells[0]}\n\n{badge}"), new_code_cell(INSTALL.format(extras=extras))]
    made += [new_markdown_cell(cell) if is_text(cell) else new_code_cell(cell) for cell in cells[1:]]
    for i, cell in enumerate(made):
        cell["id"] = f"{name}-{i}"[:64]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def is_text(cell: str) -> bool:
    return cell.startswith("#") or (cell[0].isupper() and not cell.startswith("STEPS"))


def run(nb: Any, folder: Path, *, timeout: int = 1800) -> Any:
    """Runs a notebook in a folder; its cells then hold their output."""
    client = NotebookClient(nb, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in nb.cells:
        cell.metadata = {}
        if "outputs" in cell:  # warnings of libraries say nothing to a reader
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            _make_small(output)
    return nb


def _make_small(output: Any) -> None:
    """Pictures inside a figure become JPEG: pages of code should load fast."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"] = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=]+)", _as_jpeg, data["text/html"])


def _as_jpeg(found: re.Match[str]) -> str:
    held = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        picture.convert("RGB").save(held, "JPEG", quality=85, optimize=True)
    small = base64.b64encode(held.getvalue()).decode()
    return found[0] if len(small) > len(found[1]) else f"data:image/jpeg;base64,{small}"


def main() -> None:
    for name in sys.argv[1:] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ENTOPTIC_CACHE"] = f"{folder}/cache"
            nbformat.write(run(notebook(name), Path(folder)), HERE / f"{name}.ipynb")
        print(f"{name}: {(HERE / f'{name}.ipynb').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
