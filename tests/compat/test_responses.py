"""OpenAI's responses, by their own Python package."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.stack import Stack, eventually

ANSWER = "The capital of France is Paris."
QUESTION = "What is the capital of France? Answer briefly."


@pytest.fixture
def breakable(mended_stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mended_stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_response(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="smollm2", input=QUESTION, temperature=0, metadata={"a": "b"})
    short = client.responses.create(model="scripted", instructions="Be brief.", input="x", max_output_tokens=2)

    assert whole.output_text == ANSWER
    assert (whole.status, whole.metadata, whole.usage.output_tokens) == ("completed", {"a": "b"}, 8)
    assert client.responses.retrieve(whole.id).output_text == ANSWER
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert short.usage.input_tokens == 3
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_a_streamed_response_counts_its_events(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="smollm2", input=QUESTION, temperature=0, stream=True))
    with client.responses.stream(model="smollm2", input=QUESTION, temperature=0) as helper:
        final = helper.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == ANSWER
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == ANSWER
    assert final.output_text == ANSWER


def test_a_background_response_outlives_its_server(breakable: openai.OpenAI, mended_stack: Stack) -> None:
    pace = {"scripted_tokens_per_second": 20}
    made = breakable.responses.create(
        model="scripted", input="x", background=True, max_output_tokens=80, extra_body=pace
    )
    assert made.status == "queued"
    seen = []
    for event in breakable.responses.retrieve(made.id, stream=True):
        seen.append(event)
        if event.sequence_number == 20:
            break

    mended_stack.kill("web")
    mended_stack.start("web")
    mended_stack.ready()
    rest = list(breakable.responses.retrieve(made.id, stream=True, starting_after=20))

    numbers = [event.sequence_number for event in seen + rest]
    assert numbers == list(range(len(numbers)))
    text = "".join(e.delta for e in seen + rest if e.type == "response.output_text.delta")
    assert text == " ".join(f"t{n}" for n in range(80))
    again = list(breakable.responses.retrieve(made.id, stream=True, starting_after=50))
    assert [event.model_dump() for event in again] == [event.model_dump() for event in rest[30:]]


def test_a_background_response_is_cancelled(client: openai.OpenAI) -> None:
    pace = {"scripted_tokens_per_second": 10}
    made = client.responses.create(
        model="scripted", input="x", background=True, max_output_tokens=4000, extra_body=pace
    )
    client.responses.cancel(made.id)
    eventually(lambda: client.responses.retrieve(made.id).status == "cancelled", what="the response is cancelled")

    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "cancelled"


def test_what_is_not_done_is_said(client: openai.OpenAI) -> None:
    for fields in ({"previous_response_id": "resp_x"}, {"tools": [{"type": "web_search"}]}, {"conversation": "c"}):
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="scripted", input="x", **fields)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")


def test_a_response_of_a_form(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"year": {"type": "integer", "maximum": 99}},
        "required": ["year"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "year", "schema": schema}}
    made = client.responses.create(model="smollm2", input="A year?", temperature=0, max_output_tokens=60, text=form)
    assert json.loads(made.output_text)["year"] <= 99
    assert made.text.format.name == "year"


def test_a_response_calls_a_function_and_is_told_what_it_gave(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}},
        "required": ["unit"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "name": "weather", "parameters": parameters}]
    question = {"role": "user", "content": "How warm is it?"}
    made = client.responses.create(
        model="smollm2", input=[question], tools=tools, tool_choice="required", max_output_tokens=60
    )
    (call,) = made.output
    gave = {"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"}
    answered = client.responses.create(
        model="smollm2", input=[question, call.to_dict(), gave], tools=tools, max_output_tokens=8
    )

    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments)["unit"] in ("C", "F")
    assert answered.usage.input_tokens > made.usage.input_tokens
    assert answered.status in ("completed", "incomplete")
