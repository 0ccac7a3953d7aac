"""The middleware in front of the study, and cells of tables."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import pytest

from entoptic.study.csv_table import csv_of
from entoptic.study.guards import Allowance, csv_cell


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        "\n=1",
        "\u00a0=1",
        "\ufeff=1",
        "\u200b+1",
        "\0=1",
        "\u202e=1",
        "＝1+1",
        " ＠SUM(A1)",
        "%0A=1",
        "|calc",
    ],
)
def test_a_cell_is_no_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a dog", "2afc", "a=b", "'=1", "1-2", "日本", "é=1"])
def test_other_cells_stay(text: str) -> None:
    assert csv_cell(text) == text


@dataclass(frozen=True)
class Row:
    text: str | None
    number: float | None
    flag: bool
    names: tuple[str, ...]


def test_a_table_as_csv() -> None:
    text = csv_of([Row('=HYPERLINK("x"),\n"', -0.5, True, ("a", "b")), Row(None, None, False, ("=c",))])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["text", "number", "flag", "names"],
        ['\'=HYPERLINK("x"),\n"', "-0.5", "true", "a b"],
        ["", "", "false", "'=c"],
    ]
    assert csv_of([], Row) == "text,number,flag,names\n"
    assert csv_of([]) == ""


def test_an_allowance_fills_with_time_and_is_of_one_key() -> None:
    allowance = Allowance(rate=2, burst=3)
    assert [allowance.take("a", 0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take("b", 0)
    assert [allowance.take("a", 1) for _ in range(3)] == [True, True, False]
