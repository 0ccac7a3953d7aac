"""The unit grammar: printing and parsing are inverse to each other, and mistakes are answered with advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.errors import UserError
from entoptic.units.grammar import Address, Label, Readout, parse

number = st.integers(0, 10**6)
layers = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.[A-Za-z0-9_-]{1,8}){0,4}", fullmatch=True),
    st.text(max_size=12).filter(lambda name: not name.startswith("dict(")),  # whatever a module may be called
    st.text('+-*.e1 :"\\()naif', max_size=6),
)
paths = st.text(st.characters(exclude_characters="#()<>", exclude_categories=("C", "Z")), min_size=1, max_size=20)
labels = st.builds(Label, st.text(max_size=20))
ranges = st.tuples(number, number).map(lambda pair: (min(pair), max(pair)))
indices = st.one_of(number, ranges, st.just("*"), labels)
readouts = st.one_of(
    st.builds(Readout, st.sampled_from(["", "mean", "max", "centre", "cls"]), st.just(()), st.booleans()),
    st.builds(Readout, st.just("tok"), st.tuples(number), st.booleans()),
    st.builds(Readout, st.just("at"), st.tuples(number, number), st.booleans()),
)
addresses = st.one_of(
    st.builds(Address, st.just("unit"), layers, indices, readouts),
    st.builds(Address, kind=st.just("dict"), path=paths, index=indices, readout=readouts),
    st.builds(Address, kind=st.just("dir"), path=paths, name=paths, readout=readouts),
    st.builds(Address, kind=st.just("fmap"), layer=layers, path=paths),
)


weights = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
parts = st.one_of(
    st.builds(Address, st.just("unit"), layers, indices, readouts),
    st.builds(Address, kind=st.just("dict"), path=paths, index=indices, readout=readouts),
    st.builds(Address, kind=st.just("dir"), path=paths, name=paths, readout=readouts),
)
sums = (
    st.lists(st.tuples(weights, parts), min_size=1, max_size=5, unique_by=lambda term: term[1])
    .map(lambda terms: Address("sum", terms=tuple(terms)))
    .filter(lambda address: len(address.terms) > 1 or address.terms[0][0] != 1)
)


@given(sums)
def test_parsing_undoes_printing_of_combinations(address: Address) -> None:
    text = str(address)
    assert parse(text) == address
    assert str(parse(text)) == text


@given(st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.25, 3.0]), parts), min_size=1, max_size=4), st.booleans())
def test_a_sum_is_canonical_however_it_is_written(terms: list[tuple[float, Address]], nested: bool) -> None:
    """Doubles are put together, a bracket is multiplied out; what is printed then reads back as itself."""
    text = " + ".join(f"{weight}*{part}" for weight, part in terms)
    weights: dict[Address, float] = {}
    for weight, part in terms:
        weights[part] = weights.get(part, 0) + weight
    left = {part: weight for part, weight in weights.items() if weight}
    if not left:
        with pytest.raises(UserError, match="nothing is left"):
            parse(text)
        return
    found = parse(f"-2*({text})" if nested else text)
    factor = -2 if nested else 1
    assert {part: weight for weight, part in found.terms or ((1.0, found),)} == {
        part: factor * weight for part, weight in left.items()
    }
    assert parse(str(found)) == found


@given(st.text(alphabet='logits:1 +-*.()0"ae@', max_size=24))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UserError:
        return
    assert parse(str(found)) == found


@given(addresses)
def test_parsing_undoes_printing(address: Address) -> None:
    text = str(address)
    assert parse(text) == address
    assert str(parse(text)) == text


EXAMPLES = {
    "logits:207": Address("unit", "logits", 207),
    'logits:"golden retriever"': Address("unit", "logits", Label("golden retriever")),
    "features.6:112": Address("unit", "features.6", 112),
    "features.6:112@3,5": Address("unit", "features.6", 112, Readout("at", (3, 5))),
    "features.6:0-63": Address("unit", "features.6", (0, 63)),
    "features.6:*": Address("unit", "features.6", "*"),
    "blocks.9.mlp.fc1:312@cls": Address("unit", "blocks.9.mlp.fc1", 312, Readout("cls")),
    "blocks.9.mlp.fc1:312@tok17": Address("unit", "blocks.9.mlp.fc1", 312, Readout("tok", (17,))),
    "blocks.9.mlp.fc1:312@mean": Address("unit", "blocks.9.mlp.fc1", 312, Readout("mean")),
    "blocks.9.mlp.fc1:312@max": Address("unit", "blocks.9.mlp.fc1", 312, Readout("max")),
    "blocks.9.mlp.fc1:312@centre": Address("unit", "blocks.9.mlp.fc1", 312, Readout("centre")),
    "features.6:112@mean.pre": Address("unit", "features.6", 112, Readout("mean", (), True)),
    "features.6:112@.pre": Address("unit", "features.6", 112, Readout("", (), True)),
    "dir(some/file.safetensors#stripes)": Address("dir", path="some/file.safetensors", name="stripes"),
    "dict(sae.safetensors):4211": Address("dict", index=4211, path="sae.safetensors"),
    "logits:207 + 0.5*logits:3 - features.6:112": Address(
        "sum",
        terms=(
            (1.0, Address("unit", "logits", 207)),
            (0.5, Address("unit", "logits", 3)),
            (-1.0, Address("unit", "features.6", 112)),
        ),
    ),
    "-blocks.6:112": Address("sum", terms=((-1.0, Address("unit", "blocks.6", 112)),)),
    '"blocks.conv 1":112@max': Address("unit", "blocks.conv 1", 112, Readout("max")),
    'fmap("conv 1")<photo 1.jpg>': Address("fmap", "conv 1", path="photo 1.jpg"),
    "fmap(features.6)<photo 1.jpg>": Address("fmap", "features.6", path="photo 1.jpg"),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_documented_form(text: str) -> None:
    assert parse(text) == EXAMPLES[text]
    assert str(parse(text)) == text


def test_equivalent_spellings_are_one_address() -> None:
    assert parse("  logits:207\n") == parse("logits:207") == parse("logits:0207")
    assert parse(r'logits:"a \"b\" \\ c"').index == Label('a "b" \\ c')
    assert parse(r'logits:"\a"') == parse('logits:"a"')


def test_equivalent_spellings_of_combinations_are_one_address() -> None:
    spellings = (
        "a:1-0.5*b:2",
        "a:1 - .5*b:2",
        "+a:1 -0.50 * b:2",
        "a:1 - (0.5*b:2)",
        "-(0.5*b:2 - a:1) + 0.0001*c:1 - 1e-4*c:1",
    )
    texts = {str(parse(text)) for text in spellings[:4]}
    assert texts == {"a:1 - 0.5*b:2"}
    assert str(parse(spellings[4])) == "-0.5*b:2 + a:1"
    assert str(parse("a:1-3")) == "a:1-3"  # a range
    assert str(parse("a:1-3*b:2")) == "a:1 - 3*b:2"
    assert str(parse("a:1-3.conv:2")) == "a:1 - 3.conv:2"
    assert str(parse("a-1:3")) == "a-1:3"  # a layer of that name
    assert str(parse('logits:"a + b"')) == 'logits:"a + b"'
    assert str(parse("a:1@mean+b:2@3,5-c:1@tok3.pre")) == "a:1@mean + b:2@3,5 - c:1@tok3.pre"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:1 +", "a unit is missing behind"),
        ("+", "in a shell a combination stands in quotes"),
        ("nan*a:1", "a weight is a finite number, not nan"),
        ("0*a:1", "must be a finite number other than 0, got 0"),
        ("a:1 + 1e999*b:1", "must be a finite number other than 0, got inf"),
        ("a:1 - a:1", "nothing is left"),
        ("a:1*2", "a number stands before the unit that it weighs"),
        ("(a:1", "a closing parenthesis is missing"),
        ("-a:1)", "closes nothing"),
        ("(" * 30 + "a:1" + ")" * 30, "nested more than 20 deep"),
        ("logits:church + logits:1", 'did you mean logits:"church"'),
        ("fmap(a)<p.jpg> + a:1", "which has no score to add"),
        (" + ".join(f"a:{i}" for i in range(300)), "at most 256 parts, got 300"),
        ("logits", "did you mean logits:0 (its first channel) or logits:* (all)?"),
        ("", "expected LAYER:INDEX such as"),
        ("logits:golden retriever", 'did you mean logits:"golden retriever"'),
        ("logits:-3", "indices count from 0"),
        ("features.6:9-3", "runs backwards; did you mean 3-9?"),
        ("features.6:1@men", '; did you mean "mean"?'),
        ("features.6:1@maxi", '; did you mean "max"?'),
        ("features.6:1@mean.post", "after @ comes one of mean, max, centre, cls, tokN, ROW,COLUMN"),
        ("features.6:1@", "after @ comes one of"),
        ("features.6:1@3", "after @ comes one of"),
        ("features.6:1@3,-5", "after @ comes one of"),
        ("features.6:1.5", "expected LAYER:INDEX such as"),
        (":3", "expected LAYER:INDEX such as"),
        ('logits:"open', "expected LAYER:INDEX such as"),
        ("dir(file)", "expected LAYER:INDEX such as"),
        ("fmap(layer)", "expected LAYER:INDEX such as"),
        ("blocks.conv 1:3", 'stands in quotes; did you mean "blocks.conv 1":3?'),
        ("a:b:1-2", 'did you mean "a:b":1-2?'),
        ("a:1 b:2", "expected LAYER:INDEX such as"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert words in str(error.value)


@given(st.text(max_size=30))
def test_any_other_text_is_a_user_error_and_nothing_else(text: str) -> None:
    try:
        address = parse(text)
    except UserError as error:
        message = str(error)
    else:
        message = ""
        assert parse(str(address)) == address
    assert "\n" not in message
