"""What the benchmark measures: for every number its name, its direction, what it means and what it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Column:
    """One kind of number.

    Attributes:
        name: in JSON and CSV.
        title: above a column.
        direction: "higher" or "lower" is better, "none" where neither is.
        kind: "share" for values of units in [0, 1], "mean" for others, "set" where one number is of all pictures together.
        digits: behind the point.
        bounds: lowest and highest possible value of a mean.
        means: what it says, in a line.
        not_said: what it does not say, in a line.
    """

    name: str
    title: str
    direction: Literal["higher", "lower", "none"]
    kind: Literal["share", "mean", "set"]
    digits: int = 2
    bounds: tuple[float, float] = (-math.inf, math.inf)
    means: str
    not_said: str


COLUMNS: dict[str, Column] = {
    one.name: one
    for one in (
        Column(
            name="verifier_top1", title="other networks, top-1", direction="higher", kind="share",
            means="how often networks that nothing optimises give the unit's class as their first answer",
            not_said="networks that share data and design share mistakes; it is no measure of what people see",
        ),
        Column(
            name="verifier_top5", title="other networks, top-5", direction="higher", kind="share",
            means="the same within their first five answers",
            not_said="as for top-1",
        ),
        Column(
            name="self_top1", title="itself, top-1", direction="higher", kind="share",
            means="how often the network under study itself gives the class as its first answer",
            not_said="every method optimises it: it shows that the method works, not that anything can be seen",
        ),
        Column(
            name="self_top5", title="itself, top-5", direction="higher", kind="share",
            means="the same within its first five answers",
            not_said="as for top-1",
        ),
        Column(
            name="beats_photos", title="beats every photo", direction="higher", kind="share",
            means="how often a picture drives its unit more than every photo that it is compared with",
            not_said="noise can drive a unit further than any photo; it is no sign that the picture is right",
        ),
        Column(
            name="robustness", title="robustness", direction="higher", kind="mean",
            means="share of the activation above that of a median photo that is left after JPEG, small shifts and resizing",
            not_said="only pictures that drive their unit more than a median photo count, so n may be smaller",
        ),
        Column(
            name="specificity", title="first of its layer", direction="higher", kind="share",
            means="how often the picture drives its unit more than every other unit of the layer, each in its own standard "
            "deviations over photos",
            not_said="a unit that shares its meaning with another one cannot be told from it",
        ),
        Column(
            name="two_afc", title="machine 2-AFC", direction="higher", kind="mean", bounds=(0.0, 1.0),
            means="how often another network, with the picture as its only hint, finds a photo that drives the unit beside one "
            "that does not; real: with such a photo as the hint",
            not_said="the other network is no person; chance is near 0.5",
        ),
        Column(
            name="diversity", title="diversity", direction="none", kind="mean", bounds=(0.0, 2.0),
            means="mean cosine distance between pictures of one unit with different seeds, in another network's features",
            not_said="more is not better: noise is diverse; compare with photos",
        ),
        Column(
            name="clip_top1", title="CLIP, top-1", direction="higher", kind="share",
            means="how often a CLIP, which was never trained on these labels, picks the unit's class among the names of all "
            "classes",
            not_said="it hangs on the prompt and on how the class is called; compare with the row of photos",
        ),
        Column(
            name="pathway", title="pathway", direction="higher", kind="mean", bounds=(-1.0, 1.0),
            means="cosine between how pictures and the unit's strongest photos depart from photos of anything, each channel in its "
            "standard deviations, mean over the layers that lead to the unit; real: one half of these photos against the other",
            not_said="vital matches activations of these very layers, those of other photos: it is near to what vital optimises",
        ),
        Column(
            name="kid", title="kernel distance", direction="lower", kind="set", digits=3,
            means="unbiased squared distance to real photos in another network's features (KID); real: as many real photos",
            not_said="photos of other things than the units count as well; no value of 0 is to be expected",
        ),
        Column(
            name="cmmd", title="Gaussian kernel distance", direction="lower", kind="set", digits=3, bounds=(0.0, 2.0),
            means="unbiased squared distance to real photos with a Gaussian kernel (CMMD where the network is a CLIP); real: "
            "as many real photos",
            not_said="its size hangs on the kernel's width, so only rows of one table compare",
        ),
        Column(
            name="precision", title="precision", direction="higher", kind="share",
            means="share of pictures that lie among real photos: nearer to a photo than its third neighbour is; real: as many "
            "real photos",
            not_said="one photo again and again has full precision; read it with recall",
        ),
        Column(
            name="recall", title="recall", direction="higher", kind="share",
            means="share of real photos that lie among the pictures; real: as many real photos",
            not_said="few pictures reach few photos, so only real photos of the same number compare; the interval is over photos",
        ),
        Column(
            name="frechet_infinite", title="Fréchet distance", direction="lower", kind="set", digits=1,
            means="Fréchet distance to real photos in another network's features, extrapolated to endless pictures",
            not_said="it is refused below two pictures for every feature, where it would measure the size of the set",
        ),
        Column(
            name="planted_identified", title="planted cause identified", direction="higher", kind="share",
            means="how often more than half of a planted unit's pictures show the cause that was built in",
            not_said="the networks are tiny and their pictures have 64 pixels; methods rank differently there",
        ),
        Column(
            name="planted_silent", title="silent unit told", direction="higher", kind="share",
            means="how often the evidence says of a unit that nothing drives that nothing does",
            not_said="it is a property of the evidence more than of the method",
        ),
        Column(
            name="planted_fooled", title="fooled by a decoy", direction="lower", kind="share",
            means="how often the pictures of a manipulated unit show the decoy in place of the cause",
            not_said="a method that shows neither is not fooled, but tells nothing",
        ),
        Column(
            name="planted_warned", title="misleading and warned of", direction="higher", kind="share",
            means="of pictures that drive a planted unit without its cause, how many selectivity or a second network warns of",
            not_said="n is the number of such pictures, which differs by method",
        ),
    )
}  # fmt: skip
"""Every kind of number by name, in the order in which tables show them."""
