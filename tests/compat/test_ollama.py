"""Ollama's own Python package, unmodified, and its users' curl lines."""

import json
from collections.abc import Iterator

import ollama
import pytest

from tests.stack import Stack

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
    raw = client.generate(model="smollm2", prompt="The capital of France is", raw=True, options={"num_predict": 5})
    parts = list(client.generate(model="scripted", prompt="x", stream=True, options={"num_predict": 3}))

    assert whole.response == ANSWER
    assert raw.eval_count == 5
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
