import pytest

from ming_eval.report.grid import Grid, number, pair, percent

GRID = Grid(["name", "tok/s"], [["a", "9.5"], ["mühle|x", "1444"], ["北京", "-"]])


def test_text_is_aligned_by_the_width_on_a_terminal() -> None:
    assert GRID.text() == (
        "name     tok/s\n"
        "-------  -----\n"
        "a          9.5\n"
        "mühle|x   1444\n"
        "北京         -\n"
    )  # fmt: skip


def test_markdown_aligns_numbers_right_and_escapes_bars() -> None:
    assert GRID.markdown() == (
        "| name | tok/s |\n"
        "| :-- | --: |\n"
        "| a | 9.5 |\n"
        "| mühle\\|x | 1444 |\n"
        "| 北京 | - |\n"
    )  # fmt: skip


def test_a_grid_without_rows_is_its_header() -> None:
    assert Grid(["a", "b"], []).text() == "a  b\n-  -\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1444.4, "1444"), (99.96, "100.0"), (91.23, "91.2"), (3.414, "3.41"), (0.0523, "0.052"), (0, "0.00"), (None, "-")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_pairs_and_shares() -> None:
    assert pair(1444, None) == "1444 / -"
    assert percent(0.0625) == "6.25 %"
    assert percent(None) == "-"
