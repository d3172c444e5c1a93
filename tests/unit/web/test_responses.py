"""Responses' items and events, read by OpenAI's own package over a worker that says what the test wants."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from flask import Flask

from app.jobs import State
from app.web.openai.response_schemas import ResponseBody

from .conftest import Worker
from .test_chat import meanwhile
from .test_dialects import SAID, says

TOOL: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@pytest.fixture
def maker(app: Flask) -> Iterator[openai.OpenAI]:
    transport = httpx.WSGITransport(app=app)
    with openai.OpenAI(
        base_url="http://localhost/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(transport=transport, trust_env=False),
    ) as client:
        yield client


def test_thoughts_text_and_calls_are_items(maker: openai.OpenAI, worker: Worker) -> None:
    asked: dict[str, Any] = {"model": "scripted", "input": "Weather?", "tools": [TOOL]}
    with meanwhile(lambda: says(worker, SAID)):
        whole = maker.responses.create(**asked)
    with meanwhile(lambda: says(worker, SAID)):
        events = list(maker.responses.create(**asked, stream=True))
    with meanwhile(lambda: says(worker, SAID)), maker.responses.stream(**asked) as helper:
        final = helper.get_final_response()
    last = events[-1].response

    for response in (whole, last, final, maker.responses.retrieve(last.id)):
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
        thought, message, call = response.output
        assert thought.content[0].text == "Well…"
        assert (message.content[0].text, response.output_text) == ("I look.", "I look.")
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})
        assert {item.status for item in response.output} == {"completed"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.output
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "Well…"
    assert [json.loads(e.arguments) for e in events if e.type == "response.function_call_arguments.done"] == [
        {"city": "Oslo"}
    ]
    resumed = list(maker.responses.retrieve(last.id, stream=True, starting_after=4))
    assert [event.to_dict() for event in resumed] == [event.to_dict() for event in events[5:]]


def test_items_of_a_response_go_back_as_input(maker: openai.OpenAI, worker: Worker) -> None:
    with meanwhile(lambda: says(worker, SAID)):
        first = maker.responses.create(model="scripted", input="Weather?", tools=[TOOL])
    call = first.output[-1]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    conversation = [{"role": "user", "content": "Weather?"}, *(i.to_dict() for i in first.output), output]
    made = maker.responses.create(model="scripted", instructions="Be brief.", input=conversation, background=True)
    messages = worker.kernel.store.get(made.id.removeprefix("resp_")).job.request["messages"]

    assert [(turn["role"], turn["content"]) for turn in messages] == [
        ("system", "Be brief."),
        ("user", "Weather?"),
        ("assistant", "I look."),
        ("tool", "Rain."),
    ]
    further = json.loads(messages[2]["further"])
    assert further["reasoning_content"] == "Well…"
    told = further["tool_calls"]
    assert [(c["id"], c["function"]) for c in told] == [
        (call.call_id, {"name": "weather", "arguments": {"city": "Oslo"}})
    ]
    assert json.loads(messages[3]["further"]) == {"tool_call_id": call.call_id, "name": "weather"}


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("low", True), (None, None)])
def test_an_effort_asks_for_thoughts_as_in_chats(effort: Any, think: bool | None) -> None:
    assert ResponseBody(model="m", input="x", reasoning={"effort": effort}).translated().think is think


def test_a_forced_call(maker: openai.OpenAI, worker: Worker) -> None:
    choice: Any = {"type": "function", "name": "weather"}
    with pytest.raises(openai.BadRequestError, match="schema"):  # which holds to no schema
        maker.responses.create(model="scripted", input="x", tools=[TOOL], tool_choice=choice)
    with pytest.raises(openai.BadRequestError, match="no tool named 'time'"):
        maker.responses.create(model="scripted", input="x", tools=[TOOL], tool_choice=choice | {"name": "time"})


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"prompt": {"id": "p"}},
        {"top_logprobs": 2},
        {"include": ["message.output_text.logprobs"]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": "function_call", "call_id": "1", "name": "x", "arguments": "{"}]},
    ],
)
def test_what_is_not_done_is_refused(maker: openai.OpenAI, worker: Worker, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        maker.responses.create(**{"model": "scripted", "input": "x"} | fields)
    assert not worker.kernel.store.page()


def test_what_is_not_stored_is_not_found_again(maker: openai.OpenAI, worker: Worker) -> None:
    with meanwhile(lambda: says(worker, ["Hi"])):
        made = maker.responses.create(model="scripted", input="x", store=False, include=["reasoning.encrypted_content"])
    assert (made.output_text, made.to_dict()["store"]) == ("Hi", False)
    for ask in (maker.responses.retrieve, maker.responses.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


def test_what_was_cancelled_is_not_sent_again(maker: openai.OpenAI, worker: Worker) -> None:
    """Their package sends again what got 409, unless the answer says otherwise."""
    kernel, asked = worker.kernel, maker.with_options(max_retries=2).chat.completions
    with (
        meanwhile(lambda: kernel.dispatcher.end(worker.next_job(), State.CANCELLED)),
        pytest.raises(openai.ConflictError, match="cancelled"),
    ):
        asked.create(model="scripted", messages=[{"role": "user", "content": "x"}])
    assert len(kernel.store.page()) == 1


@pytest.mark.parametrize(("code", "told"), [("context_overflow", "invalid_prompt"), ("engine_died", "server_error")])
def test_a_failed_response_says_whose_fault_it_is(maker: openai.OpenAI, worker: Worker, code: str, told: str) -> None:
    made = maker.responses.create(model="scripted", input="x", background=True)
    job_id = worker.next_job()
    attempt = worker.claim(job_id)
    worker.tokens(job_id, attempt, 1, 2)
    worker.fail(job_id, attempt, 3, code)
    last = list(maker.responses.retrieve(made.id, stream=True))[-1]

    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == told
    assert maker.responses.retrieve(made.id).error == last.response.error
