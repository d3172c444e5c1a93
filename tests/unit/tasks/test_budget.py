"""What a model will take, and what it is granted."""

from typing import Any

import msgspec
import pytest

from app.settings import Settings
from app.stock import Model
from tasks.budget import Budget, Memory, need, too_large
from tasks.choice import Candidate

GB = 10**9


def unknown() -> Memory:
    return Memory(0, 0)


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def row(**values: Any) -> Model:
    return Model(name="m", path="/m", format="safetensors", size_bytes=10 * GB, **values)


def candidate(quantize: str = "no", engine: str = "vllm") -> Candidate:
    return Candidate(engine, 64, quantize, {})


@pytest.mark.parametrize(
    ("quantize", "facts", "least"),
    [
        ("no", {}, 10 * GB),
        ("q4", {}, 3.5 * GB),
        ("q4", {"dtype": "float32"}, 1.75 * GB),
        ("q8", {"dtype": "bfloat16"}, 6 * GB),
        ("fp16", {"dtype": "float32"}, 5 * GB),
        ("fp32", {"dtype": "bfloat16"}, 20 * GB),
        ("fp32", {"dtype": "float32"}, 10 * GB),
    ],
)
def test_weights_take_what_their_precision_says(quantize: str, facts: dict[str, str], least: float) -> None:
    assert need(row(facts=facts), candidate(quantize), gpu=True).least == least


def test_a_gpu_needs_less_for_a_model_of_which_main_memory_may_hold_a_part() -> None:
    spread = Candidate("transformers", 1, "no", {"max_cpu_memory": 4 * GB})
    assert need(row(), spread, gpu=True).least == 6 * GB
    assert need(row(), spread, gpu=False).least == 10 * GB
    assert need(row(), spread._replace(quantize="q4"), gpu=True).least == 3.5 * GB


def test_an_engine_gets_its_share_of_the_places() -> None:
    budget = Budget(settings(max_cache_models=4), unknown)
    memory = Memory(100 * GB, 90 * GB)

    assert budget.grant(need(row(), candidate(), gpu=False), memory) == int(100 * GB * 0.9) // 4


def test_a_model_larger_than_its_share_gets_what_it_needs() -> None:
    budget = Budget(settings(max_cache_models=4), unknown)
    wanted = need(row(), candidate(), gpu=False)

    assert budget.grant(wanted, Memory(40 * GB, 40 * GB)) == wanted.good


def test_never_more_than_what_is_free() -> None:
    budget = Budget(settings(max_cache_models=1), unknown)

    assert budget.grant(need(row(), candidate(), gpu=False), Memory(100 * GB, 20 * GB)) == 18 * GB


def test_workers_on_one_cpu_share_its_memory() -> None:
    wanted = need(Model(name="m", size_bytes=1, facts={}), candidate(engine="scripted"), gpu=False)

    assert Budget(settings(), unknown, peers=lambda: 3).grant(wanted, Memory(60 * GB, 60 * GB)) == 9 * GB


def test_a_limit_counts_what_this_worker_s_engines_hold() -> None:
    budget = Budget(settings(max_cpu_memory="10GB"), measure=lambda: Memory(100 * GB, 90 * GB))

    assert budget.memory([4 * GB, 3 * GB]) == Memory(10 * GB, 3 * GB)
    assert budget.memory([]) == Memory(10 * GB, 10 * GB)
    assert Budget(settings(), measure=lambda: Memory(9, 8)).memory([4]) == Memory(9, 8)


def test_each_kind_of_device_has_its_own_limit() -> None:
    limited = settings(max_cpu_memory="1GB", max_gpu_memory="2GB")

    memory = Budget(limited, lambda: Memory(9 * GB, 9 * GB), gpu=True).memory([])
    assert memory.total == 2 * GB
    # A worker tells it to all others; with a limit of pydantic's own type it could not, and was never there.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory)) == [2 * GB, 2 * GB]


def test_nothing_is_granted_of_what_nobody_knows() -> None:
    assert Budget(settings(), unknown).grant(need(row(), candidate(), gpu=True), Memory(0, 0)) is None


def test_the_error_has_figures_and_says_what_to_try() -> None:
    message = too_large(row(), candidate(), need(row(), candidate(), gpu=False), Memory(8 * GB, 7 * GB)).message

    assert all(
        part in message for part in ("10.00 GB", "7.00 GB", "8.00 GB", "MAX_CACHE_MODELS", "q4", "smaller context")
    )


def test_four_bit_is_not_recommended_to_who_has_it() -> None:
    small = candidate("q4")

    assert "q4" not in too_large(row(), small, need(row(), small, gpu=False), Memory(1, 1)).message
