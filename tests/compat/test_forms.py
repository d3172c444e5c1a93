"""Answers of a given form, by OpenAI's own package: JSON, schemas, calls of tools."""

import json

import openai
import pytest
from pydantic import BaseModel, Field

from tests.stack import Stack

QUESTION = [{"role": "user", "content": "Tell me about Paris."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    name: str = Field(max_length=20)  # or a model of this size goes on and on
    population: int = Field(ge=0, le=99_999_999)


def test_a_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=200, response_format={"type": "json_object"}
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_schema_parsed_by_the_package(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=200, response_format=City
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_schema_that_cannot_be_held_to_is_the_clients_to_mend(client: openai.OpenAI) -> None:
    def ask(schema: dict[str, object]) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        client.chat.completions.create(model="smollm2", messages=QUESTION, response_format=form)

    deep: dict[str, object] = {"type": "string"}
    for _ in range(70):
        deep = {"type": "array", "items": deep}
    with pytest.raises(openai.BadRequestError, match="Invalid type: nonsense"):
        ask({"type": "nonsense"})
    with pytest.raises(openai.BadRequestError, match="nested"):
        ask(deep)


def test_a_tool_that_must_be_called(client: openai.OpenAI) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "tools": [WEATHER], "temperature": 0, "max_tokens": 100}
    whole = client.chat.completions.create(**asked, tool_choice="required")
    named = {"type": "function", "function": {"name": "get_weather"}}
    stream = list(client.chat.completions.create(**asked, tool_choice=named, stream=True))
    deltas = [chunk.choices[0].delta for chunk in stream]
    called = [call for delta in deltas for call in delta.tool_calls or ()]
    call = whole.choices[0].message.tool_calls[0]

    assert whole.choices[0].finish_reason == stream[-1].choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    assert call.function.name == called[0].function.name == "get_weather"
    assert call.function.arguments == called[0].function.arguments
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    assert called[0].index == 0
    assert not any(delta.content for delta in deltas)


def test_the_result_of_a_call_reaches_the_model(client: openai.OpenAI, stack: Stack) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain rain rain"},
    ]
    one, both = (
        client.chat.completions.create(model="smollm2", messages=turns, tools=tools, max_tokens=5)
        for tools in ([WEATHER], [WEATHER, WEATHER])
    )
    without = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=5)
    assert both.usage.prompt_tokens > one.usage.prompt_tokens > without.usage.prompt_tokens + 50


def test_a_choice_of_tools_that_makes_no_sense(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no tool named 'x'"):
        client.chat.completions.create(
            model="smollm2",
            messages=QUESTION,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "x"}},
        )


def test_a_token_can_be_ruled_out(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
    whole = client.chat.completions.create(
        model="smollm2", messages=asked, temperature=0, max_tokens=8, logit_bias={"504": -100}
    )
    assert not whole.choices[0].message.content.startswith("The")


def test_the_native_format(stack: Stack) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 200}
    schema = {"type": "object", "properties": {"year": {"type": "integer", "maximum": 99}}, "required": ["year"]}
    answer = stack.http.post("/chat", json=body | {"format": schema}).json()
    assert json.loads(answer["message"]["content"])["year"] <= 99
