import pytest

from ming_eval.errors import UsageError
from ming_eval.load.plan import Level, LoadPlan, Order, Shape, parse_concurrency, parse_rates
from ming_eval.load.profiles import PROFILES, find_profile, override, plan_load
from tests.ming_eval.factories import make_plan


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("1..32", (1, 2, 4, 8, 16, 32)),
        ("1..10", (1, 2, 4, 8, 10)),
        ("3..20", (3, 6, 12, 20)),
        ("1..32:4", (1, 5, 9, 13, 17, 21, 25, 29, 32)),
        ("4..12:4", (4, 8, 12)),
        ("1..3:100", (1, 3)),
        ("5..5", (5,)),
        ("7", (7,)),
        ("9,1,3", (1, 3, 9)),
        ("1..4, 4..6:1", (1, 2, 4, 5, 6)),
    ],
)
def test_concurrency_forms(text: str, points: tuple[int, ...]) -> None:
    assert parse_concurrency(text) == points


@pytest.mark.parametrize(
    "text",
    ["", "0", "0..4", "8..1", "1..", "..8", "1..8:0", "-1", "1..8:-2", "a", "1,,2", "1.5", "1..8:2:2", "1..70000"],
)
def test_bad_concurrency_is_a_usage_error_that_shows_the_text(text: str) -> None:
    with pytest.raises(UsageError, match="bad concurrency") as caught:
        parse_concurrency(text)
    assert repr(text) in str(caught.value)


def test_default_number_of_requests_is_four_per_user_but_at_least_sixteen() -> None:
    plan = make_plan(requests=None)
    assert [plan.num_requests(Level(c)) for c in (1, 4, 5, 32)] == [16, 16, 20, 128]
    assert make_plan(requests=7).num_requests(Level(32)) == 7


def test_a_warmup_wave_is_as_wide_as_its_point() -> None:
    assert make_plan(warmup_waves=1).num_warmup(Level(8)) == 8
    assert make_plan(warmup_waves=3).num_warmup(Level(8)) == 24
    assert make_plan(warmup_waves=0).num_warmup(Level(8)) == 0


def test_every_profile_has_points_that_parse() -> None:
    assert all(parse_concurrency(profile.concurrency) for profile in PROFILES.values())
    assert all(name == profile.name for name, profile in PROFILES.items())


def test_what_is_typed_wins_over_the_profile_also_when_it_is_zero_or_false() -> None:
    typed = {"concurrency": "3", "requests": 5, "max_tokens": 7, "ignore_eos": False, "warmup_waves": 0}
    plan = plan_load(override(find_profile("chat"), **typed), seed=1, max_error_rate=0.0, timeout_s=2.0)
    assert plan == LoadPlan("chat", "chat", (3,), 5, 7, False, 0, 1, 0.0, 2.0)
    unchanged = override(find_profile("quick"), **dict.fromkeys(typed))
    assert unchanged == find_profile("quick")


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="chat"):
        find_profile("nope")


# --- loads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rates"),
    [("5", (5.0,)), ("4,1,2.5", (1.0, 2.5, 4.0)), ("0.5..3", (0.5, 1.0, 2.0, 3.0)), ("2..2", (2.0,))],
)
def test_rates(text: str, rates: tuple[float, ...]) -> None:
    assert parse_rates(text) == rates


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1,,2", "4..1", "0..4", "1e9", "1..", "nan", "inf"])
def test_bad_rates_are_usage_errors_that_show_the_text(text: str) -> None:
    with pytest.raises(UsageError, match="bad rate") as caught:
        parse_rates(text)
    assert repr(text) in str(caught.value)


def test_orders_visit_every_point_once() -> None:
    def visited(order: Order) -> list[int]:
        plan = make_plan(concurrencies=(1, 2, 4, 8, 16), order=order, seed=1)
        return [level.concurrency for level in plan.ordered_levels()]

    assert visited(Order.GIVEN) == [1, 2, 4, 8, 16]
    assert visited(Order.INTERLEAVED) == [1, 16, 2, 8, 4]
    assert sorted(visited(Order.RANDOM)) == [1, 2, 4, 8, 16] != visited(Order.RANDOM)
    assert visited(Order.RANDOM) == visited(Order.RANDOM)


def test_an_open_loop_has_a_point_for_each_rate_and_thirty_seconds_of_requests() -> None:
    plan = make_plan(shape=Shape.POISSON, rates_per_s=(0.1, 5.0), concurrencies=(64,), warmup_waves=2)
    low, high = plan.levels()
    assert (low.label, low.title, high.label, high.title) == ("r0.1", "0.1/s", "r5", "5/s")
    assert [plan.num_requests(level) for level in (low, high)] == [16, 150]
    assert [plan.num_warmup(level) for level in (low, high)] == [2, 10]


def test_a_timed_open_loop_has_room_for_more_than_its_rate_says() -> None:
    plan = make_plan(shape=Shape.POISSON, rates_per_s=(5.0,), concurrencies=(64,), duration_s=60.0)
    assert plan.num_requests(plan.levels()[0]) == 600
