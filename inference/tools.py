"""Tools for models whose template knows nothing of them: told in the first message, in the form that Hermes models use.

Whoever reads the answer finds its calls by the same marks. What a template does know goes to it as it is.
"""

import json
from typing import Any

from inference.protocol import Message

#: Special tokens that have text all the same, because readers of the answer find its calls and its thoughts by them.
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>")

_TOLD = """You may call functions to help with the user's request. Their signatures, as JSON, between <tools></tools>:
<tools>
{tools}
</tools>
For each call, answer with a JSON object of the function's name and its arguments between <tool_call></tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{}}}}
</tool_call>"""


def turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as templates take them; arguments of calls are objects there."""
    return [_turn(message) for message in messages]


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.further:
        turn |= json.loads(message.further)
    return turn


def told(messages: tuple[Message, ...], tools: str) -> tuple[Message, ...]:
    """The same messages without anything that a plain template would leave out."""
    plain = [_plain(message) for message in messages]
    if tools:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in json.loads(tools))
        text = _TOLD.format(tools=lines)
        if plain and plain[0].role == "system":
            first = plain.pop(0)
            text = f"{first.content}\n\n{text}"
        plain.insert(0, Message("system", text))
    return tuple(plain)


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.further:
        return message
    calls = json.loads(message.further).get("tool_calls", [])
    said = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    return Message(message.role, "\n".join([message.content, *said] if message.content else said))
