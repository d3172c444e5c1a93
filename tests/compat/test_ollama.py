"""Ollama's own Python package, unmodified, and its users' curl lines."""

import json
from collections.abc import Iterator

import ollama
import pytest

from tests.stack import Stack, eventually

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
ANSWER = "The capital of France is Paris."
GREEDY = {"temperature": 0}


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[ollama.Client]:
    with ollama.Client(host=stack.url) as made:
        yield made


def test_a_chat(client: ollama.Client) -> None:
    whole = client.chat(model="smollm2", messages=QUESTION, options=GREEDY)
    parts = list(client.chat(model="smollm2:latest", messages=QUESTION, options=GREEDY, stream=True))

    assert whole.message.content == ANSWER
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "stop", 8)
    assert whole.total_duration > 0
    assert "".join(part.message.content for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].model == "smollm2:latest"


def test_a_generation(client: ollama.Client) -> None:
    prompt = QUESTION[0]["content"]
    whole = client.generate(model="smollm2", prompt=prompt, options=GREEDY)
    raw = client.generate(
        model="smollm2", prompt="The capital of France is", raw=True, options=GREEDY | {"num_predict": 5}
    )
    parts = list(client.generate(model="scripted", prompt="x", stream=True, options={"num_predict": 3}))

    assert whole.response == ANSWER
    assert raw.response.startswith(" Paris")
    assert 1 < raw.eval_count <= 5
    assert "".join(part.response for part in parts) == "t0 t1 t2"
    assert parts[-1].done_reason == "length"


def test_options_that_we_lack_are_dropped(client: ollama.Client) -> None:
    options = {"num_predict": 2, "mirostat": 1, "num_gpu": 3, "stop": ["t1"], "seed": -1}
    assert client.generate(model="scripted", prompt="x", options=options).response.strip() == "t0"


def test_models(client: ollama.Client, stack: Stack) -> None:
    names = [model.model for model in client.list().models]
    shown = client.show("smollm2")

    assert "smollm2:latest" in names
    assert shown.details.format == "gguf"
    assert "completion" in shown.capabilities
    assert stack.http.get("/api/version").json()["version"]
    assert stack.http.get("/").text == "Ollama is running"


def test_errors_in_its_words(client: ollama.Client, stack: Stack) -> None:
    with pytest.raises(ollama.ResponseError) as unknown:
        client.chat(model="no-such", messages=QUESTION)
    with pytest.raises(ollama.ResponseError) as bad:
        client.chat(model="smollm2", messages=QUESTION, options={"temperature": 9})
    with pytest.raises(ollama.ResponseError) as image:
        client.generate(model="smollm2", prompt="x", images=[b"\x00"])
    pushed = stack.http.post("/api/push", json={"model": "x"})

    assert (unknown.value.status_code, unknown.value.error) == (404, "model 'no-such' not found")
    assert (bad.value.status_code, image.value.status_code) == (400, 400)
    assert "temperature" in bad.value.error
    assert pushed.status_code == 400
    assert list(pushed.json()) == ["error"]


def test_a_curl_line_without_a_content_type(stack: Stack) -> None:
    body = json.dumps({"model": "scripted", "prompt": "x", "stream": False, "options": {"num_predict": 2}})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert stack.http.post("/api/generate", content=body, headers=form).json()["response"] == "t0 t1"


def test_the_context_goes_on(client: ollama.Client) -> None:
    first = client.generate(model="scripted", prompt="one two", options={"num_predict": 3})
    parts = list(
        client.generate(model="scripted", prompt="x", context=first.context, stream=True, options={"num_predict": 2})
    )

    assert parts[-1].prompt_eval_count == 2 + 3 + 1
    assert parts[-1].context != first.context
    with pytest.raises(ollama.ResponseError, match="is gone") as gone:
        client.generate(model="scripted", prompt="x", context=[7] * 16)
    assert gone.value.status_code == 400


def test_num_ctx_caps_a_request(client: ollama.Client) -> None:
    answer = client.chat(model="smollm2", messages=QUESTION, options={"num_ctx": 50, "num_predict": 200, "stop": []})
    with pytest.raises(ollama.ResponseError, match="context holds 20"):
        client.chat(model="smollm2", messages=QUESTION, options={"num_ctx": 20})
    assert answer.prompt_eval_count + answer.eval_count <= 50


def test_answers_of_a_form(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    schema |= {"required": ["name", "age"]}
    options = {"temperature": 0, "num_predict": 200}
    held = client.chat(model="smollm2", messages=QUESTION, format=schema, options=options)
    loose = client.generate(model="smollm2", prompt="Describe Paris as JSON.", format="json", options=options)

    assert {"name", "age"} <= json.loads(held.message.content).keys()
    assert isinstance(json.loads(loose.response), dict)


def test_tools_and_their_results_reach_the_model(client: ollama.Client) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    turns = [*QUESTION, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "rain"}]
    told = client.chat(model="smollm2", messages=turns, tools=[get_weather], think=False, options={"num_predict": 4})
    plain = client.chat(model="smollm2", messages=QUESTION, options={"num_predict": 4})
    assert told.prompt_eval_count > plain.prompt_eval_count + 50


def test_models_come_and_go(client: ollama.Client) -> None:
    loaded = client.generate(model="smollm2", prompt="", keep_alive="1h")
    resident = next(model for model in client.ps().models if model.model == "smollm2:latest")
    unloaded = client.chat(model="smollm2", messages=[], keep_alive=0)

    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    assert (resident.size_vram, resident.context_length > 0) == (0, True)
    assert resident.expires_at is not None
    assert (unloaded.done_reason, unloaded.message.content) == ("unload", "")
    eventually(lambda: "smollm2:latest" not in [model.model for model in client.ps().models])


def test_copies_are_names(client: ollama.Client) -> None:
    client.copy("smollm2", "my/copy")
    names = [model.model for model in client.list().models]
    answer = client.chat(model="my/copy:latest", messages=QUESTION, options=GREEDY)
    client.delete("my/copy")

    assert "my/copy:latest" in names
    assert answer.message.content == ANSWER
    with pytest.raises(ollama.ResponseError, match="model 'my/copy' not found") as gone:
        client.delete("my/copy")
    assert gone.value.status_code == 404
    assert "smollm2:latest" in [model.model for model in client.list().models]


def test_what_is_not_done_says_so(stack: Stack) -> None:
    digest = "sha256:" + "0" * 64
    assert stack.http.head(f"/api/blobs/{digest}").status_code == 404
    for path in (f"/api/blobs/{digest}", "/api/create", "/api/push"):
        answer = stack.http.post(path, json={"model": "x"})
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
    unknown = stack.http.get("/api/no-such")
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
    assert "message" in stack.http.get("/v1/no-such").json()["error"]
