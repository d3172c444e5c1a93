"""Tools and schemas, on their way to a model."""

import json
import time
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from app.web.dialect import call_schema
from inference import schema
from inference.prompts import Prompter, load_tokenizer
from inference.protocol import Message, Request, Sampling
from inference.tools import told, turns

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "description": "How it is."}}])
CALL = {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}
CHAT = (
    Message("system", "Be brief."),
    Message("user", "Oslo?"),
    Message("assistant", "", json.dumps(CALL)),
    Message("tool", "rain", json.dumps({"name": "weather"})),
)


def test_a_template_that_knows_tools_gets_them_as_they_are(starter_bf16: Path) -> None:
    template = (
        "{% if enable_thinking %}T {% endif %}{{ tools[0].function.name }}|"
        "{% for m in messages %}{{ m.tool_calls[0].function.arguments.city if m.tool_calls }}{% endfor %}"
    )
    tokenizer = load_tokenizer(starter_bf16)
    prompt = Prompter(tokenizer, template, 100).prompt(Request("a", CHAT, tools=TOOLS, think=True))
    assert tokenizer.decode(prompt.ids) == "T weather|Oslo"


def test_one_that_knows_none_is_told_of_them_in_words(starter_bf16: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = load_tokenizer(starter_bf16)
    text = tokenizer.decode(Prompter(tokenizer, template, 1000).prompt(Request("a", CHAT, tools=TOOLS)).ids)
    assert text.startswith("system: Be brief.\n\nYou may call functions")
    assert '"name": "weather"' in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    assert "user: <tool_response>\nrain\n</tool_response>" in text


def test_a_plain_chat_is_left_alone() -> None:
    plain = CHAT[:2]
    assert told(plain, "") == plain
    assert turns(CHAT)[2]["tool_calls"] == CALL["tool_calls"]


def test_a_request_may_have_less_context_than_the_model(starter_bf16: Path) -> None:
    prompter = Prompter(load_tokenizer(starter_bf16), None, 1000)
    whole = prompter.prompt(Request("a", CHAT[:2], Sampling(max_tokens=900)))
    assert prompter.prompt(Request("a", CHAT[:2], Sampling(max_tokens=900), context=100)).budget == 100 - whole.tokens


def test_schemas_are_checked_before_the_model_sees_the_request() -> None:
    assert schema.fault('{"type": "object", "properties": {"a": {"type": "integer"}}}') is None
    for bad, why in (
        ('{"type": "nonsense"}', "Invalid type"),
        ('{"$ref": "https://example.org/s"}', "Resource"),
        ('{"type": "string", "pattern": "("}', "regex"),
    ):
        failure = schema.fault(bad)
        assert failure is not None
        assert why in failure.message


def test_references_in_a_tools_parameters_are_found_where_a_call_is_forced() -> None:
    def tool(name: str, **kind: Any) -> dict[str, Any]:
        properties = {"of": {"$ref": "#/$defs/Kind"}, "also": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}
        parameters = {"type": "object", "properties": properties, "required": ["of"], "$defs": {"Kind": kind}}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    two = [tool("a", enum=["x"]), tool("b", type="integer")]
    for tools in (two[:1], two):
        assert schema.fault(json.dumps(call_schema(tools))) is None
    matcher = LLMatcher(LLTokenizer("byte"), schema.grammar(json.dumps(call_schema(two))))
    said = b'{"name": "b", "arguments": {"of": 1, "also": {"of": "x"}}}'
    assert matcher.try_consume_tokens(list(said)) == said.index(b'"x"'), "the second tool's Kind is its own"


def test_a_schema_that_would_keep_a_processor_busy_for_hours_is_refused() -> None:
    parts = [{"type": "string", "pattern": f"^.*(a|b)*a(a|b){{{length}}}.*$"} for length in range(5, 30)]
    failure = schema.fault(json.dumps({"allOf": parts}))
    assert failure is not None
    assert "Make it smaller" in failure.message
    long = {"type": "array", "items": {"type": "string", "minLength": 10_000, "maxLength": 60_000}, "minItems": 9000}
    began = time.thread_time()
    schema.fault(json.dumps(long))
    assert time.thread_time() - began < 1.0  # whatever it takes, it is no time of ours
