"""The words that units may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from entoptic.errors import Unreadable, UserError
from entoptic.models.sources import imagenet_labels
from entoptic.names.make_words import make
from entoptic.names.vocabulary import REMOVE, load_vocabulary


def test_names_synonyms_and_hypernyms_of_the_classes_go() -> None:
    labels = ["golden retriever", "church, church building", "candle"]
    kept = {remove: set(load_vocabulary(labels=labels, remove=remove).words) for remove in REMOVE}
    assert kept["nothing"] >= {"church", "dog", "building", "candle", "fur", "red", "striped"}
    assert kept["names"] == kept["nothing"] - {"church", "candle"}
    assert not kept["synonyms"] & {"church", "candle"}
    assert not kept["hypernyms"] & {"church", "dog", "building"}
    assert kept["hypernyms"] >= {"fur", "red", "striped", "cat", "wheel"}
    assert kept["hypernyms"] < kept["synonyms"] <= kept["names"] < kept["nothing"]


def test_the_head_of_a_name_that_wordnet_lacks_is_a_hypernym() -> None:
    assert "circle" in load_vocabulary(labels=["red circle"], remove="synonyms").words
    kept = load_vocabulary(labels=["red circle"]).words
    assert "circle" not in kept
    assert "red" in kept


def test_plurals_go_with_their_word() -> None:
    assert {"wheel", "wheels"} <= set(load_vocabulary().words)
    assert not {"wheel", "wheels"} & set(load_vocabulary(labels=["wheel"], remove="names").words)


def test_imagenets_classes_leave_enough() -> None:
    kept = load_vocabulary(labels=imagenet_labels()[0])
    assert len(kept.words) > 1500
    assert kept.sha256 == load_vocabulary(labels=imagenet_labels()[0]).sha256
    assert not {"dog", "car", "bird", "fish"} & set(kept.words)
    assert {"striped", "paw", "sky"} <= set(kept.words)


def test_words_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# mine\n" + "\n".join(f"Word_{i}  x" for i in range(30)) + "\n\nword 3 x\n")
    found = load_vocabulary(file, labels=["word 4 x"])
    assert (len(found.words), found.removed, found.source) == (29, 1, "words.txt")
    assert "word 3 x" in found.words
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unreadable, match="cannot be read as a list of words"):
        load_vocabulary(file)
    with pytest.raises(UserError, match="there is no file"):
        load_vocabulary(tmp_path)


def test_the_files_are_made_of_wordnets(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 a licence\n"
        "00000001 03 n 01 entity 0 000 | what there is\n"
        "00000002 06 n 02 kettle 0 boiler 0 001 @ 00000001 n 0000 | a pot\n"
        "00000003 04 n 01 race 0 001 @ 00000001 n 0000 | an act\n"
        "00000004 15 n 01 Paris 0 001 @i 00000001 n 0000 | a city\n"
    )
    (tmp_path / "index.noun").write_text(
        "  1 a licence\nkettle n 1 1 @ 1 0 00000002\nrace n 1 1 @ 1 0 00000003\nparis n 1 1 @i 1 0 00000004\n"
    )
    (tmp_path / "vocab.txt").write_text("##let\nparis\nrace\nkettle\n[CLS]\nunknown\n")
    assert make(tmp_path, tmp_path / "vocab.txt", tmp_path) == (1, 2)
    assert (tmp_path / "words.txt").read_text().splitlines()[1:] == ["kettle\tartifact"]
