"""What each engine can do of a request, so that nothing is ignored: it is honoured, or refused with a reason.

Whatever is not here, every engine does; docs/models.md has the whole table.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    """A field that an engine cannot honour."""

    param: str
    reason: str


class Limit(NamedTuple):
    """A field, the values of it that an engine cannot honour, and what it says then."""

    param: str
    is_beyond: Callable[[Any], bool]
    reason: str


#: The engine that a format leads to, where there is only one.
ENGINE_OF = {"gguf": "llamacpp", "scripted": "scripted"}

_ELSEWHERE = "vLLM and llama.cpp alone do it, and this model does not run on them (GET /models shows its backend)"
_FORM = Limit("schema", lambda value: value is not None, f"an answer of a given form, or a forced tool: {_ELSEWHERE}")

_LIMITS: dict[str, tuple[Limit, ...]] = {
    "transformers": (_FORM,),
    "scripted": (
        _FORM,
        Limit("logit_bias", bool, "the scripted engine has no scores; leave it out"),
        Limit("logprobs", lambda value: value is not None, "the scripted engine has no probabilities; leave it out"),
    ),
}


def refuse(engine: str, sampling: Mapping[str, Any]) -> Refusal | None:
    """The first field of a request that an engine cannot honour."""
    for limit in _LIMITS.get(engine, ()):
        if limit.is_beyond(sampling.get(limit.param)):
            return Refusal(limit.param, f"{limit.param}: {limit.reason}.")
    return None
