"""JSON schemas that answers must fit, as the grammars of llguidance, which llama.cpp and vLLM have built in.

Its checker runs before the model sees the request: llama.cpp says nothing of a grammar that it cannot read, and answers
without one.
"""

import json
import subprocess
import sys
from functools import lru_cache
from typing import Any

from inference.protocol import Failure

#: One space behind commas and colons, and none elsewhere: small models left free to write spaces write nothing else.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

#: What a checker may take: seconds of a processor, seconds by the clock on a machine that is busy, bytes of memory.
CPU_SECONDS, SECONDS, MEMORY = 3, 10, 1 << 30
_CHILD = """
import sys
from inference.confine import confine
confine(int(sys.argv[1]), int(sys.argv[2]))
from llguidance import LLMatcher
print(LLMatcher.validate_grammar(sys.stdin.read()), end="")
"""


def compact(schema: str) -> str:
    """The same schema, for answers on one line."""
    parsed: Any = json.loads(schema)
    return json.dumps({**parsed, "x-guidance": _SPACING}) if isinstance(parsed, dict) else schema


def grammar(schema: str) -> str:
    """The schema as a grammar."""
    return f"%llguidance {{}}\nstart: %json {compact(schema)}"


def fault(schema: str) -> Failure | None:
    """What is wrong with a schema; None where it can be held to.

    A few patterns are enough to keep the checker busy for hours, or to fill the memory: it runs in a child with limits,
    once for all requests with the same schema.
    """
    try:
        return _found(schema)
    except subprocess.TimeoutExpired:  # it is not remembered: the machine may have been busy with something else
        return _refusal(f"it is not prepared after {SECONDS} s. Make it smaller.")


@lru_cache(256)
def _found(schema: str) -> Failure | None:
    child = [sys.executable, "-c", _CHILD, str(MEMORY), str(CPU_SECONDS)]
    done = subprocess.run(child, input=grammar(schema), capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        return _refusal(f"preparing it takes more than {CPU_SECONDS} s or {MEMORY >> 20} MB. Make it smaller.")
    if not done.stdout:
        return None
    reason = done.stdout.splitlines()[0].partition("failed to compile JSON schema: ")
    return _refusal(reason[2] or reason[0])


def _refusal(reason: str) -> Failure:
    return Failure(Failure.INVALID_REQUEST, f"The answer cannot be held to this JSON schema: {reason}")
