"""The unit grammar: printing and parsing are inverse to each other, and mistakes are answered with advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.errors import UserError
from entoptic.units.grammar import Address, Label, Readout, parse

number = st.integers(0, 10**6)
layers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.[A-Za-z0-9_-]{1,8}){0,4}", fullmatch=True)
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
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
