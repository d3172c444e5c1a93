"""What can go wrong with an engine. What is wrong with one request travels as a `Failure` in its last chunk.

EngineError             engine_failed
├── LoadError           backend_missing | unsupported_model | bad_model | out_of_memory | load_timeout
│                       | load_cancelled | unknown_engine | engine_failed
└── EngineDiedError     engine_died
RefusedError            that of its `failure`
"""

import re
from typing import ClassVar

from inference.protocol import Failure

#: How long a model's template may take over a request's messages, in seconds.
RENDER_SECONDS = 5.0


class EngineError(Exception):
    """An engine cannot do its work; the message says what to do."""

    code: ClassVar[str] = "engine_failed"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class LoadError(EngineError):
    """The model is not served: `code` says which kind of reason it is."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # each instance carries its own


class EngineDiedError(EngineError):
    """The engine's process is gone, and with it every request that it ran."""

    code = "engine_died"


class RefusedError(ValueError):
    """A request that this model cannot take. `prompt_tokens`: as far as they were counted."""

    def __init__(self, code: str, message: str, prompt_tokens: int = 0) -> None:
        super().__init__(message)
        self.failure = Failure(code, message)
        self.prompt_tokens = prompt_tokens


def check_prompt(tokens: int, context: int) -> None:
    """Raises RefusedError for a prompt that is empty, or leaves no room for an answer."""
    if not tokens:
        raise RefusedError(Failure.INVALID_REQUEST, "The prompt is empty. Give at least one word.")
    if tokens >= context:
        raise RefusedError(
            Failure.CONTEXT_OVERFLOW,
            f"The prompt has {tokens} tokens, and the context holds {context}, answer included. "
            "Shorten the messages, or load the model with a larger context.",
            tokens,
        )


def slow_template(seconds: float) -> RefusedError:
    """The error for messages over which a template takes longer than that."""
    return RefusedError(
        Failure.INVALID_REQUEST,
        f"The model's chat template takes more than {seconds:g} s for these messages. Send fewer.",
    )


def first_line(error: Exception) -> str:
    """What an error of a library says, on one line and without paths."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"/\S+/", "", line)[:200]
