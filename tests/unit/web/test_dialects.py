"""Calls and thoughts in both dialects' shapes, over a worker that says what the test wants; and odd requests."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.bus import Entry
from app.events import Token
from app.kernel import Kernel
from app.web.ollama.schemas import ChatRequest
from app.web.openai.schemas import ChatCompletionBody

from .conftest import NODE, Worker
from .test_chat import meanwhile

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ASKED: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
SAID = ["<think>", "Well", "…</think>", "\n\n", "I look. ", "<tool", '_call>{"name": "wea', 'ther", "arguments": ']
SAID += ['{"city": "Oslo"}}', "</tool_call>"]


def says(worker: Worker, pieces: list[str]) -> None:
    job_id = worker.next_job()
    attempt = worker.claim(job_id)
    tokens = [Token(number, text) for number, text in enumerate(pieces, 1)]
    worker.kernel.bus.append(NODE, [Entry(job_id, attempt, token) for token in tokens])
    worker.finish(job_id, attempt, tokens)


def test_openais_shapes(client: FlaskClient, worker: Worker) -> None:
    asked = ASKED | {"tools": TOOLS}
    with meanwhile(lambda: says(worker, SAID)):
        whole = client.post("/v1/chat/completions", json=asked).get_json()["choices"][0]
    with meanwhile(lambda: says(worker, SAID)):
        text = client.post("/v1/chat/completions", json=asked | {"stream": True}).get_data(as_text=True)
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    choices = [json.loads(line)["choices"][0] for line in lines]
    deltas = [choice["delta"] for choice in choices]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]

    assert whole["finish_reason"] == choices[-1]["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == "".join(delta.get("content", "") for delta in deltas) == "I look."
    assert whole["message"]["reasoning_content"] == "Well…"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Well…"
    assert [call["index"] for call in calls] == [0]
    assert calls[0]["function"] == whole["message"]["tool_calls"][0]["function"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Oslo"}


def test_ollamas_shapes(client: FlaskClient, worker: Worker) -> None:
    asked = ASKED | {"tools": TOOLS}
    with meanwhile(lambda: says(worker, SAID)):
        whole = client.post("/api/chat", json=asked | {"stream": False}).get_json()
    with meanwhile(lambda: says(worker, SAID)):
        text = client.post("/api/chat", json=asked).get_data(as_text=True)
    messages = [json.loads(line)["message"] for line in text.splitlines()]

    assert (whole["message"]["content"], whole["message"]["thinking"]) == ("I look.", "Well…")
    assert whole["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert "".join(message["content"] for message in messages) == "I look."
    assert "".join(message.get("thinking", "") for message in messages) == "Well…"
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    assert calls == [call["function"] for call in whole["message"]["tool_calls"]]


def deep() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_turn_s_parts_and_thoughts_reach_the_template() -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]
    thought = {"role": "assistant", "content": "x", "reasoning_content": "Well…", "tool_calls": None}
    asked = ASKED | {"messages": [{"role": "user", "content": parts}, thought, thought | {"reasoning": "Hm"}]}
    turns = ChatCompletionBody.model_validate(asked).translated().request()["messages"]

    assert turns[0] == {"role": "user", "content": "One\nTwo"}
    assert [json.loads(turn["further"]) for turn in turns[1:]] == [
        {"reasoning_content": "Well…"},
        {"reasoning_content": "Hm"},
    ]


def test_what_a_turn_of_ollamas_thought_and_called_reaches_the_template() -> None:
    call = {"id": "call_1", "function": {"name": "weather", "arguments": {}}}
    turns = [
        {"role": "assistant", "content": None, "thinking": "Well…", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "call_1"},
    ]
    shown = ChatRequest.model_validate(ASKED | {"messages": turns}).translated([]).request()["messages"]

    assert shown[0]["content"] == ""
    assert json.loads(shown[0]["further"]) == {
        "reasoning_content": "Well…",
        "tool_calls": [call | {"type": "function"}],
    }
    assert json.loads(shown[1]["further"]) == {"tool_call_id": "call_1"}


def test_ollama_takes_null_for_left_out_the_highest_think_and_no_limit() -> None:
    asked = ASKED | {"stream": None, "logprobs": None, "tools": None, "think": "max"}
    body = ChatRequest.model_validate(asked | {"options": {"num_predict": -1}})
    request = body.translated([]).request()

    assert body.stream
    assert request["think"]
    assert request["sampling"]["max_tokens"] == 131_072


def test_vllm_s_extras_are_done_or_refused_not_dropped() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    def held(**fields: Any) -> Any:
        return ChatCompletionBody.model_validate(ASKED | fields).translated().sampling().get("schema")

    for form in (schema, json.dumps(schema)):
        assert json.loads(held(structured_outputs={"json": form})) == schema
    assert json.loads(held(structured_outputs={"json_object": True})) == {"type": "object"}
    # What is said without a meaning, as by clients that send each default, is nothing to refuse.
    assert held(stop_token_ids=[], prompt_logprobs=None, use_beam_search=False, logprobs=False, top_logprobs=0) is None
    assert not ChatCompletionBody(**ASKED, stream=True, stream_options={"include_usage": None}).include_usage


ODD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"tools": [1]}),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": 1}]}),
    ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "x", "parameters": 1}}]}),
    ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": {"function": 1}}),
    ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "sometimes"}),
    ("/v1/chat/completions", {"tool_choice": "required"}),
    (
        "/v1/chat/completions",
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": deep()}}], "tool_choice": "required"},
    ),
    ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": 1}}),
    ("/v1/chat/completions", {"response_format": {"type": "xml"}}),
    ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),  # the scripted engine
    ("/v1/chat/completions", {"structured_outputs": {"choice": ["yes", "no"]}}),
    ("/v1/chat/completions", {"structured_outputs": {"json": "{"}}),
    ("/v1/chat/completions", {"continue_final_message": True}),
    ("/v1/completions", {"prompt": "x", "prompt_logprobs": 1}),
    ("/v1/chat/completions", {"logit_bias": {"x": 1}}),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x"}}, 1]}]}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]},
    ),
    ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema"}}}),
    ("/v1/embeddings", {"input": []}),
    ("/v1/embeddings", {"input": "x", "dimensions": 3}),
    ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": 1}]}]}),
    ("/api/chat", {"tools": [{}]}),
    ("/api/chat", {"format": "xml"}),
    ("/api/chat", {"options": {"num_ctx": "many", "temperature": "hot"}}),
    ("/api/generate", {"prompt": "x", "context": [1, 2, 3]}),
    ("/api/generate", {"prompt": "x", "context": [999] * 16}),
    ("/api/generate", {"prompt": "x", "raw": True, "context": [1] * 16}),
    ("/api/generate", {"prompt": "x", "keep_alive": "soon"}),
    ("/api/embed", {"input": [""]}),
    ("/api/embed", {"input": "x", "dimensions": 3}),
    ("/api/copy", {"source": "scripted", "destination": "a//b"}),
]


@pytest.mark.parametrize(("path", "fields"), ODD)
def test_an_odd_request_is_the_clients_to_mend(
    client: FlaskClient, worker: Worker, path: str, fields: dict[str, Any]
) -> None:
    answer = client.post(path, json=ASKED | fields)
    assert answer.status_code == 400, answer.get_data(as_text=True)
    assert answer.get_json()["error"]
    assert not worker.kernel.store.page()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_the_length_that_vectors_have_may_be_asked_for(
    client: FlaskClient, kernel: Kernel, worker: Worker, path: str
) -> None:
    kernel.catalog.add("g", Path("/"), format="gguf", size_bytes=5, source="import")

    def asked(dimensions: int) -> Any:
        with meanwhile(lambda: says(worker, [base64.b64encode(struct.pack("<2f", 0.5, 0.25)).decode()])):
            return client.post(path, json={"model": "g", "input": "x", "dimensions": dimensions})

    good, bad = asked(2).get_json(), asked(3)
    assert (good["data"][0]["embedding"] if "data" in good else good["embeddings"][0]) == [0.5, 0.25]
    assert (bad.status_code, "vectors have 2" in bad.get_data(as_text=True)) == (400, True)


def test_both_dialects_list_a_model_under_each_of_its_names(client: FlaskClient, kernel: Kernel) -> None:
    kernel.aliases.put("gpt-4o-mini", "scripted")
    listed = {row["id"] for row in client.get("/v1/models").get_json()["data"]}
    tagged = {row["model"] for row in client.get("/api/tags").get_json()["models"]}

    assert listed == {"scripted", "gpt-4o-mini"}
    assert tagged == {f"{name}:latest" for name in listed}
    assert client.get("/v1/models/gpt-4o-mini").get_json()["id"] == "gpt-4o-mini"


@pytest.mark.parametrize(("task", "can"), [("generate", ["completion"]), ("embed", ["embedding"])])
def test_ollama_run_takes_only_a_model_for_vectors_for_one(
    client: FlaskClient, kernel: Kernel, tmp_path: Path, task: str, can: list[str]
) -> None:
    kernel.catalog.add("o/n", tmp_path, format="gguf", size_bytes=9, source="import", facts={"task": task})

    assert client.post("/api/show", json={"model": "o/n"}).get_json()["capabilities"] == can
