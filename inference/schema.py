"""JSON schemas that answers must fit, as the grammars of llguidance, which llama.cpp and vLLM have built in.

Its checker runs in an engine's process before the model sees the request: llama.cpp says nothing of a grammar that it
cannot read, and answers without one.
"""

import json
from typing import Any

from inference.protocol import Failure

#: One space behind commas and colons, and none elsewhere: small models left free to write spaces write nothing else.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def compact(schema: str) -> str:
    """The same schema, for answers on one line."""
    parsed: Any = json.loads(schema)
    return json.dumps({**parsed, "x-guidance": _SPACING}) if isinstance(parsed, dict) else schema


def grammar(schema: str) -> str:
    """The schema as a grammar."""
    return f"%llguidance {{}}\nstart: %json {compact(schema)}"


def fault(schema: str) -> Failure | None:
    """What is wrong with a schema; None where it can be held to."""
    from llguidance import LLMatcher

    said = str(LLMatcher.validate_grammar(grammar(schema)))
    if not said:
        return None
    reason = said.splitlines()[0].partition("failed to compile JSON schema: ")
    return Failure(Failure.INVALID_REQUEST, f"The answer cannot be held to this JSON schema: {reason[2] or reason[0]}")
