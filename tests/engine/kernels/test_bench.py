"""The benchmark's verdicts; its numbers need a GPU."""

from __future__ import annotations

import json

import pytest
import torch

from engine.kernels.bench import __main__ as bench
from engine.kernels.bench.case import Case, Outputs
from engine.kernels.bench.timing import Ceilings

RIGHT = torch.tensor([1.0, 2.0])
CEILINGS = Ceilings(bytes_per_s=1e12, flops_per_s=1e14)


def outputs(values: torch.Tensor) -> Outputs:
    return (values,)


def broken(_: int) -> Outputs:
    raise RuntimeError("out of shared memory\nand more")


def make_case() -> Case:
    variants = {
        "right": lambda _: outputs(RIGHT * 1.001),
        "wrong": lambda _: outputs(RIGHT * 1.02),
        "nan": lambda _: outputs(RIGHT * float("nan")),
        "broken": broken,
    }
    exact = lambda _: outputs(RIGHT)  # noqa: E731
    return Case("sum", "T=2", 1_000_000, 50_000_000, 1, variants, exact, exact)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, bench.Row]:
    monkeypatch.setattr(bench, "eager_s", lambda call, num_sets: 1e-5)
    monkeypatch.setattr(bench, "replay_s", lambda call, num_sets: 4e-6)
    return {row.variant: row for row in bench.measure(make_case(), CEILINGS)}


def test_rates_and_share(rows: dict[str, bench.Row]) -> None:
    """1 MB at 1 TB/s is 1 us and 50 MFLOP at 100 TFLOP/s half a us: in 4 us that is a quarter of the limit."""
    row = rows["right"]
    assert row.ok
    assert row.error == pytest.approx(1e-3, rel=1e-3)
    assert (row.us, row.limit_us, row.reference_us) == pytest.approx((4.0, 1.0, 10.0))
    assert (row.share, row.gb_s, row.tflop_s) == pytest.approx((0.25, 250.0, 12.5))


def test_batches_and_variants_can_be_chosen() -> None:
    found = bench.sizes([2, 64, 100])
    assert (found.decodes, found.prefills) == ((2, 64), (100,))
    assert bench.sizes(None).decodes[:3] == (1, 2, 4)
    assert list(bench.chosen(make_case(), ["ri", "w"]).variants) == ["right", "wrong"]
    assert list(bench.chosen(make_case(), None).variants) == ["right", "wrong", "nan", "broken"]


@pytest.mark.parametrize("variant", ["wrong", "nan", "broken"])
def test_a_wrong_kernel_has_no_time(rows: dict[str, bench.Row], variant: str) -> None:
    row = rows[variant]
    assert not row.ok
    assert row.us is row.share is row.gb_s is row.tflop_s is None
    assert "WRONG" in bench.line(row)


def test_what_went_wrong_is_named(rows: dict[str, bench.Row]) -> None:
    assert "error 2.00e-02 above 1e-02" in bench.line(rows["wrong"])
    assert "RuntimeError: out of shared memory" in bench.line(rows["broken"])
    assert "NaN" in bench.line(rows["nan"])
    assert rows["broken"].error is rows["nan"].error is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


def test_json_holds_every_row_and_nothing_that_json_lacks(
    rows: dict[str, bench.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    found = json.loads(bench.table(CEILINGS, list(rows.values()), "abc"))
    assert found["ceilings"] == {"bytes_per_s": 1e12, "flops_per_s": 1e14}
    assert [row["variant"] for row in found["rows"]] == ["right", "wrong", "nan", "broken"]
    assert [row["us"] for row in found["rows"]] == [pytest.approx(4.0), None, None, None]
