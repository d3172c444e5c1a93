"""Which worker a model goes to."""

from app.placement import allowed, choose, is_placed, spread
from app.registry import Card, Holding, Loading

GB = 10**9


def card(number: int, *holdings: Holding, loading: tuple[str, ...] = (), **values: object) -> Card:
    return Card(
        f"gpu.{number}@here",
        f"gpu.{number}",
        "here",
        1,
        "life",
        holdings,
        tuple(Loading(model) for model in loading),
        **{"cache_limit": 2, **values},  # type: ignore[arg-type]
    )


def held(model: str, running: int = 0, **values: object) -> Holding:
    return Holding(model, "vllm", 4, running, **values)  # type: ignore[arg-type]


def test_a_model_is_placed_where_it_is_held_or_on_its_way() -> None:
    assert is_placed([card(0, held("m"))], "m")
    assert is_placed([card(0, loading=("m",))], "m")
    assert not is_placed([card(0, held("other"))], "m")
    assert not is_placed([card(0, held("m", leaving=True))], "m")


def test_a_worker_with_room_goes_before_an_idle_one_without() -> None:
    full, free = card(0, held("a"), held("b")), card(1, held("c", running=3))

    assert choose([full, free]) == free


def test_of_those_with_room_the_one_with_least_to_do() -> None:
    assert choose([card(0, held("a", 2)), card(1, held("b", 1))]) == card(1, held("b", 1))
    assert choose([card(0, held("a")), card(1)]) == card(1)
    assert choose([]) is None


def test_memory_counts_as_room() -> None:
    small = card(0, memory_total=8 * GB, memory_free=8 * GB)
    large = card(1, held("a", 5), memory_total=80 * GB, memory_free=40 * GB)

    assert choose([small, large], 7 * GB) == large
    assert choose([small, large], 2 * GB) == small


def test_a_device_that_is_too_small_comes_after_one_that_is_full() -> None:
    small = card(0, memory_total=8 * GB, memory_free=8 * GB)
    full = card(1, held("a", 5), held("b", 5), memory_total=80 * GB, memory_free=1 * GB)

    assert choose([small, full], 30 * GB) == full


def test_a_bound_model_goes_to_its_devices_alone() -> None:
    cards = [card(0), card(1), card(2)]

    assert allowed(cards, ()) == cards
    assert allowed(cards, ("gpu.1", "gpu.2@here")) == cards[1:]
    assert allowed(cards, ("gpu.7",)) == []


def test_a_model_spreads_to_a_free_place() -> None:
    busy, free = card(0, held("m", 4)), card(1, held("a", 1))

    assert spread([busy, free], "m", 0, ["m"]) == free


def test_it_spreads_to_the_place_of_an_idle_model() -> None:
    other = card(1, held("a", 1), held("b"))

    assert spread([card(0, held("m", 4)), other], "m", 0, ["m"]) == other


def test_it_takes_nothing_from_what_works_or_is_wanted_or_pinned() -> None:
    busy = card(0, held("m", 4))

    for kept in (held("b", 1), held("b", pinned=True), held("b", leaving=True)):
        assert spread([busy, card(1, held("a", 1), kept)], "m", 0, ["m"]) is None
    assert spread([busy, card(1, held("a", 1), held("b"))], "m", 0, ["m", "b"]) is None
    assert spread([busy, card(1, loading=("c",))], "m", 0, ["m"]) is None


def test_it_spreads_only_where_memory_allows() -> None:
    busy = card(0, held("m", 4), memory_total=10 * GB, memory_free=0)
    tight = card(1, held("a", bytes=4 * GB), memory_total=10 * GB, memory_free=1 * GB)

    assert spread([busy, tight], "m", 4 * GB, ["m"]) == tight
    assert spread([busy, tight], "m", 5 * GB, ["m"]) is None
