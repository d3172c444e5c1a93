"""What engines are refused, and what none is."""

import pytest

from app.abilities import ENGINE_OF, Refusal, refuse
from tasks.choice import ENGINES


@pytest.mark.parametrize("engine", ["vllm", "transformers", "llamacpp"])
def test_real_engines_honour_every_field(engine: str) -> None:
    everything = {"logprobs": 20, "min_p": 0.5, "presence_penalty": 1.0, "seed": 1, "stop": ["x"], "ignore_eos": True}

    assert refuse(engine, everything) is None


def test_what_an_engine_cannot_do_is_named_with_its_field() -> None:
    assert refuse("scripted", {"logprobs": 0}) == Refusal(
        "logprobs", "logprobs: the scripted engine has no probabilities; leave it out."
    )
    assert refuse("scripted", {"logprobs": None}) is None


def test_the_engine_is_known_by_the_format_exactly_where_there_is_one() -> None:
    assert {form: engines[0] for form, engines in ENGINES.items() if len(engines) == 1} == ENGINE_OF
