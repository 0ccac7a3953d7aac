"""The page of the other tools, from its JSON."""

from __future__ import annotations

from typing import Any

OBJECTIONS = {
    "torch-lucent": [
        "Lucid's recipe was made for channels of InceptionV1, not for class logits of a network with depthwise convolutions.",
        "By default it works on 128 pixels and enlarges them for the network; its users may look at the picture small.",
        "Its normalisation is fixed for torchvision's networks, so `render_vis` is called with `preprocess=False` and the",
        "network's own. It declares kornia 0.4.1 or older, and runs with that here.",
    ],
    "torch-dreams": [
        "120 iterations of 256 pixels are what `render` has when nothing is given; the longer example of its README takes 150.",
        "The picture is made smaller for the judges. Class logits go in by `custom_func`, the normalisation by",
        "`set_custom_normalization`.",
    ],
    "Horama": [
        "Its pictures are made to be looked at with 1280 pixels, and every step sees crops of 25 to 30 % of the side. The rows",
        "`centre`, where its default was run, judge the middle 27.5 %, around which crops are drawn. 6000 evaluations are its",
        "default; 300 are few for it. With one crop a step it fails, so equal cost means fewer steps of several crops: canvas and",
        "crops were chosen among four settings by the verifiers on one class of the tuning half (295, American black bear).",
        "Its viewer clips colours and fades what its transparency map leaves out; here the picture is what was optimised.",
        "`values_range` is the network's own, as its README asks. MACO's spectrum is the file in Xplique's wheel.",
    ],
}
"""What a user of each tool may say against this comparison."""


def page(result: dict[str, Any]) -> str:
    """The tables in Markdown."""
    rows: dict[str, Any] = result["rows"]
    n = len(result["classes"])
    lines = [
        "# Other tools", "",
        f"The same network (EfficientNet-Lite0), the same class logits, the same judges: {n} classes of the half *report* of",
        "[classes without photos](any-class.md), on which nothing of Entoptic was chosen, "
        f"{result['seeds']} seed{'s' * (result['seeds'] > 1)}. Every tool runs",
        "in a process and an environment of its own, with the same torch, one thread and the network's own normalisation.",
        "Its 8-bit pictures are brought to the network's input size, 224 pixels. `benchmarks/other_tools.py` makes this page.",
        "", "Evaluations are pictures through the network, forward and backward, counted by hooks. *Agreement*: share of the",
        f"judges other than the network itself that put the class first ({', '.join(others(rows))}). *Distance*: kernel",
        f"distance (KID, unbiased) to {photos_of(rows)} ImageNet validation photos of many classes in the pooled features of",
        "a judge. In brackets 95 % intervals over classes: Wilson's for shares, Student's for paired differences, and for",
        "distances Student's with the jackknife. A difference is the row's value less that of `vital` on the same classes; n is",
        "the number of classes.", "",
    ]  # fmt: skip
    lines += [*summary(rows), ""]
    equal = {name: entry for name, entry in rows.items() if entry.get("equal")}
    theirs = {name: entry for name, entry in rows.items() if "equal" in entry and not entry["equal"]}
    base = {name: entry for name, entry in rows.items() if name == "photos"}
    lines += [f"## At equal cost: {result['evaluations']} evaluations", "", *main_table(base | equal), ""]
    if theirs:
        lines += [
            "## As they come",
            "",
            "The tools' own defaults, against `vital` as it comes.",
            "",
            *main_table(theirs),
            "",
        ]
    lines += ["## Judge by judge", "", "Top-1 / top-5, in brackets the interval of top-1.", "", *judge_table(rows), ""]
    lines += ["## Cost", "", *cost_table(rows), ""]
    lines += unfinished(result)
    absent = [tool for tool in result["tools"] if tool["reason"]]
    if absent:
        lines += ["## What does not run", "", "| tool | installed | why |", "|---|---|---|"]
        lines += [
            f"| {tool['name']} | {', '.join(tool['requirements'])} | {tool['reason']}. {tool['note']} |"
            for tool in absent
        ]
        lines += [""]
    lines += ["## What a user of a tool may object to", ""]
    for name, said in OBJECTIONS.items():
        if any(tool["name"] == name for tool in result["tools"]):
            lines += [f"* **{name}.** " + " ".join(said)]
    lines += [
        "* **All.** One network, and class logits alone: nothing is said of channels, of other networks, or of pictures that are",
        "  meant to be beautiful. Lite1 and Lite2 are of the subject's family. The recipe of `vital` was chosen on other classes",
        "  by Lite1, Lite2, MobileNetV2 and distances in MobileNetV2, its contrast by SqueezeNet too, and it reads statistics of",
        "  photos (one a class, shipped with Entoptic). Lucent, torch-dreams and Fourier use no photos; MACO uses a spectrum of",
        "  photos.",
        "", "## Published numbers", "",
        "None is shown. The papers of VITAL and MACO measure other networks (ResNet-50, ViT) with other judges, and the tools",
        "publish no measurements: no number has this protocol.", "",
    ]  # fmt: skip
    small = [name for name, entry in rows.items() if any(one["kid"]["value"] is None for one in entry["sets"].values())]
    if small:
        entry = next(iter(rows[small[-1]]["sets"].values()))
        lines += [
            "## What is too small", "",
            f"`entoptic.metrics.sets` refuses such small sets: {entry['kid']['reason']}; {entry['frechet_infinite']['reason']}.",
            "The distances above are the same estimator as `kid`, with Student's interval over classes.", "",
        ]  # fmt: skip
    versions = ", ".join(f"{k} {v}" for k, v in result["about"].items())
    lines += [
        "## Another tool", "",
        "One file such as `benchmarks/tools/lucent_adapter.py` says what is installed and how one picture is made;",
        "`--tools lucent` runs it.", "",
        "## Pictures", "", "![A row for each setting, a column for each class](other-tools.jpg)", "",
        "*The first seed of the first classes, nothing picked. Empty places were not made.*", "",
        f"`{result['command'].strip()}` with {versions}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def summary(rows: dict[str, Any]) -> list[str]:
    """Which rows `vital` is ahead of, and which not, by the intervals of the differences."""
    compared = {name: entry["against"] for name, entry in rows.items() if "against" in entry and "equal" in entry}
    measures: dict[str, tuple[str, dict[str, Any]]] = {
        "agreement": ("higher", {name: one["agreement"] for name, one in compared.items()})
    }
    for space in dict.fromkeys(space for one in compared.values() for space in one["distance"]):
        far = {name: one["distance"][space] for name, one in compared.items() if space in one["distance"]}
        measures[f"distance in {space}"] = ("lower", far)
    lines = []
    for what, (better, told) in measures.items():
        said: dict[str, list[str]] = {}
        for name, one in told.items():
            said.setdefault(
                verdict(one, better).removeprefix("; ").removeprefix("`vital` ") or "no interval", []
            ).append(name)
        ways = {"ahead": "ahead of", "not told apart": "not told apart from", "behind": "behind"}
        parts = [f"{ways[how]} {', '.join(said[how])}" for how in ways if how in said]
        if parts:
            lines.append(f"* **{what[0].upper()}{what[1:]}**: `vital` is {'; '.join(parts)}.")
    return (
        [*lines, "", "About one in twenty 95 % intervals misses the true value, and this page has dozens."]
        if lines
        else []
    )


def unfinished(result: dict[str, Any]) -> list[str]:
    """What is missing or has fewer classes than the page names, in sentences."""
    rows, n = result["rows"], len(result["classes"])
    absent = [name for tool in result["tools"] if not tool["reason"] for name in tool["settings"] if name not in rows]
    few = [f"{name} ({entry['classes']})" for name, entry in rows.items() if entry["classes"] < n and ", " not in name]
    lines = []
    if absent:
        lines += [f"Not made: {', '.join(absent)}."]
    if few:
        lines += [f"Of fewer than {n} classes: {', '.join(few)}."]
    return (
        [*lines, "The command below makes what is missing (`--slow-classes` for Horama's defaults).", ""]
        if lines
        else []
    )


def others(rows: dict[str, Any]) -> list[str]:
    """Names of the judges other than the network itself, which is the first."""
    return list(next(iter(rows.values()))["judges"])[1:]


def photos_of(rows: dict[str, Any]) -> int:
    """How many photos distances are measured to."""
    return next((one["photos"] for entry in rows.values() for one in entry["distance"].values()), 0)


def text(told: dict[str, Any] | None, digits: int = 2, sign: bool = False) -> str:
    """A value with its interval and n."""
    if told is None:
        return "–"
    value = f"{told['value']:{'+' if sign else ''}.{digits}f}"
    if told["interval"] is None:
        return f"{value} (n = {told['n']}, no interval)"
    low, high = told["interval"]
    return f"{value} [{low:.{digits}f}, {high:.{digits}f}] (n = {told['n']})"


def verdict(told: dict[str, Any] | None, better: str) -> str:
    """Whether the interval of a difference to `vital` leaves out 0."""
    if told is None or told["interval"] is None:
        return ""
    low, high = told["interval"]
    if low <= 0 <= high:
        return "; not told apart"
    return "; `vital` ahead" if (high < 0) == (better == "higher") else "; `vital` behind"


def main_table(rows: dict[str, Any]) -> list[str]:
    """Agreement and distances, with their differences."""
    spaces = list(dict.fromkeys(space for entry in rows.values() for space in entry["distance"]))
    heads = ["row", "evaluations", "agreement", "difference"]
    heads += [head for space in spaces for head in (f"distance {space}", "difference")]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, entry in rows.items():
        versus = entry.get("against", {})
        apart = versus.get("agreement")
        cells = [name, f"{entry['evaluations']:.0f}" if "evaluations" in entry else "", text(entry["agreement"])]
        real = name == "photos"  # the level of real photos, not a rival
        cells += [text(apart, sign=True) + ("" if real else verdict(apart, "higher")) if apart else ""]
        for space in spaces:
            far = versus.get("distance", {}).get(space)
            cells += [text(entry["distance"].get(space), 3)]
            cells += [text(far, 3, sign=True) + ("" if real else verdict(far, "lower")) if far else ""]
        lines.append("| " + " | ".join(cells) + " |")
    floors = {
        space: next(
            (entry["distance"][space].get("real") for entry in rows.values() if space in entry["distance"]), None
        )
        for space in spaces
    }
    said = [f"{value:+.3f} in {space}" for space, value in floors.items() if value is not None]
    if said:
        lines += ["", f"As many real photos against the other photos: {', '.join(said)}."]
    return lines


def judge_table(rows: dict[str, Any]) -> list[str]:
    """Top-1 and top-5 of every judge."""
    judges = list(next(iter(rows.values()))["judges"])
    lines = [f"| row | n | {' | '.join(judges)} |", "|---" * (len(judges) + 2) + "|"]
    for name, entry in rows.items():
        cells = []
        for judge in judges:
            one, five = entry["judges"][judge]["top-1"], entry["judges"][judge]["top-5"]
            low, high = one["interval"]
            cells.append(f"{one['value']:.2f} / {five['value']:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {name} | {entry['n']} | {' | '.join(cells)} |")
    return lines


def cost_table(rows: dict[str, Any]) -> list[str]:
    """What a picture costs, against `vital`."""
    lines = [
        "Processor seconds of one thread, from the call of the tool to its picture (for Entoptic with its measurements and files).",
        "", "| row | version | setting | evaluations | processor seconds | against `vital` |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, entry in rows.items():
        if "evaluations" in entry and ", " not in name:
            versus = entry.get("against", {}).get("seconds")
            lines.append(
                f"| {name} | {', '.join(entry['versions'])} | {entry['says']} | {entry['evaluations']:.0f} "
                f"| {entry['processor seconds']:.0f} | {text(versus) + '×' if versus else ''} |"
            )
    return lines


def short_table(result: dict[str, Any]) -> str:
    """The rows at equal cost in few columns, for the first page of the project."""
    rows: dict[str, Any] = result["rows"]
    lines = [
        f"| {result['evaluations']} network evaluations a picture | other networks, top-1 | less `vital` | distance to photos |",
        "|---|---|---|---|",
    ]
    for name, entry in rows.items():
        if name == "photos" or entry.get("equal"):
            cells = [entry["agreement"], entry.get("against", {}).get("agreement"), entry["distance"]["MobileNetV2"]]
            signs = ("", "+", "")
            texts = ["" if one is None else _short(one, sign) for one, sign in zip(cells, signs)]
            lines.append(f"| {name.removesuffix(' equal').removesuffix('-equal')} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _short(one: dict[str, Any], sign: str) -> str:
    low, high = one["interval"]
    return f"{one['value']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
