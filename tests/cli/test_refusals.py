"""What cannot be read is answered with one sentence, the nearest choice and exit code 2."""

from __future__ import annotations

import pytest

from cli.conftest import Say, refusal, see
from entoptic.cli.verbs import VERBS, spoken
from entoptic.errors import closest, instead, slips


@pytest.mark.parametrize("name", VERBS)
def test_an_unknown_option_of_any_verb(say: Say, name: str) -> None:
    verb = spoken(name).split()
    assert f"{spoken(name)} has no option --debgu; did you mean --debug?" in refusal(say(*verb, "--debgu"))
    said = refusal(say(*verb, "--qqqq"))
    assert (
        said == f"entoptic: {spoken(name)} has no option --qqqq; `entoptic {spoken(name)} --help` lists its options\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sea"], 'there is no verb "sea"; did you mean "see"?'),
        (["lern", "prior"], 'there is no verb "lern"; did you mean "learn"?'),
        (["learn", "pior"], 'there is no verb "learn pior"; did you mean "learn prior"?'),
        (["zzzz"], 'there is no verb "zzzz"; `entoptic --help` lists them'),
        (["--versio"], 'there is no option --versio before a verb; did you mean "--version"?'),
        (["see", "m", "u", "--metod", "vital"], "see has no option --metod; did you mean --method?"),
        (["see", "m", "u", "--vital.stepz", "3"], "see has no option --vital.stepz; did you mean --vital.steps?"),
        (["see", "m", "u", "--vitl.steps", "3"], "see has no option --vitl.steps; did you mean --vital.steps?"),
        (["see", "m", "u", "--method", "klsc", "--bank", "9"], "see has no option --bank; did you mean --klsc.bank?"),
        (["see", "m", "u", "-n", "3"], "see has no option -n; did you mean --n?"),
        (["see", "m", "u", "--n", "three"], '--n must be a whole number, got "three"'),
        (["see", "m", "u", "--n", "2.0"], '--n must be a whole number, got "2.0"; did you mean 2?'),
        (["see", "m", "u", "--nats", "1,5"], '--nats must be a number, got "1,5"; did you mean 1.5?'),
        (["see", "m", "u", "--vital.steps=x"], '--vital.steps must be a whole number, got "x"'),
        (["see", "m", "u", "--steps"], "--steps needs a whole number behind it: --steps INT"),
        (["see", "m", "u", "--out", "--n", "3"], "--out needs a path behind it: --out FOLDER"),
        (["see", "m", "u", "--debug=3"], '--debug takes no value, got "3"; --debug turns it on, --no-debug off'),
        (["learn", "prior", "--photos", "p", "--widths", "3", "x"], '--widths must be whole numbers, got "x"'),
        (["gallery", "a", "b"], '"b" is one word too many for gallery; it is written `entoptic gallery RUN [options]`'),
        (
            ["verify"],
            "verify needs RUN (the run folder, or the folder of a benchmark); it is written `entoptic verify RUN [options]`",
        ),
        (["check", "m"], "check needs --photos PHOTOS (real photos"),
        (["index", "m", "--photos", "p"], "index needs --layers LAYER (module names, or logits"),
        (["merge", "--out", "x"], "no index was given; expected the folders of its shards"),
    ],
)
def test_sentences(say: Say, words: list[str], sentence: str) -> None:
    said = refusal(say(*words))
    assert said.startswith(f"entoptic: {sentence}"), said
    assert len(said) < 330  # it does not list everything that there is
    assert "╭" not in said


def test_what_is_read_as_before(say: Say) -> None:
    assert "no model source" in refusal(say("see", "tny:net", "logits:0", "--batch_size", "3", "--vital.no-flip"))
    assert "must be at least 1" in refusal(say("see", "tiny:net", "logits:0", "--n", "-3"))
    assert "must be finite" in refusal(say("see", "tiny:net", "logits:0", "--nats", "-inf"))


def test_units_that_are_only_nearly_written(say: Say) -> None:
    assert 'did you mean logits:"stripe" (in a shell: \'logits:"stripe"\')?' in refusal(say(*see("stripe")))
    assert 'did you mean logits:"stripe"' in refusal(say(*see("strpie")))
    assert 'did you mean logits:"stripe"' in refusal(say(*see("logit:stripe")))
    assert 'did you mean "stripe"?' in refusal(say(*see('logits:"strpie"')))
    assert "did you mean stage1:0?" in refusal(say(*see("stgae1")))
    assert "did you mean stage1:0 (its first channel)" in refusal(say(*see("stage1")))


def test_methods_and_priors_that_are_only_nearly_written(say: Say) -> None:
    assert refusal(say(*see("logits:0", "--method", "vitla"))) == 'entoptic: no method "vitla"; did you mean "vital"?\n'
    assert "`entoptic ls methods` lists them" in refusal(say(*see("logits:0", "--method", "qqqq")))
    klsc = ("see", "tiny:net", "logits:0", "--method", "klsc", "--prior")
    assert 'did you mean "small-32"' in refusal(say(*klsc, "builtin:smal-32"))
    assert 'did you mean "builtin"' in refusal(say(*klsc, "bultin:small-32"))


def test_letters_that_change_places_are_one_slip() -> None:
    assert [slips("chruch", word) for word in ("chruch", "church", "crutch", "")] == [0, 1, 2, 6]
    assert closest("chruch", ["crutch", "clutch", "church"]) == "church"
    assert closest("zzz", ["crutch"]) is None
    assert closest("", ["crutch"]) is None
    assert closest("SMALL", ["tiny", "small-32"]) == "small-32"


def test_a_long_list_is_not_read_out() -> None:
    many = [f"unit{i}" for i in range(30)]
    assert instead("qqq", many) == "; there are 30, such as unit0, unit1, unit2"
    assert instead("qqq", many, where="entoptic ls") == "; `entoptic ls` lists them"
    assert instead("qqq", ["a", "b"]) == "; there are a, b"
    assert instead("qqq", []) == "; there are none"
    assert instead("unit77", many) == '; did you mean "unit7"?'


@pytest.mark.parametrize("verb", ["gallery", "verify", "ls", "status"])
@pytest.mark.parametrize("path", ["x" * 300, "xx/" * 1800])
def test_a_path_that_cannot_be_is_refused(say: Say, verb: str, path: str) -> None:
    assert "is no path: " in refusal(say(verb, path))
