"""Several prompts in one request."""

import json
import threading
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from app.events import Ended, Likely, Logprob, Token
from app.jobs import State
from app.kernel import Kernel
from app.models import Job
from app.web import held
from app.web.openai.completions import Told, _chunks
from app.web.openai.schemas import CompletionBody

from .conftest import Worker, until
from .test_chat import meanwhile


@pytest.fixture(autouse=True)
def soon(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who is abandoned ends at once; and before the kernel does."""
    monkeypatch.setattr(held, "LINGER", 0.1)
    monkeypatch.setattr(held, "ANSWER", 0.1)
    yield
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)


@pytest.mark.parametrize("detach", [False, True])
def test_a_refused_request_leaves_none_of_its_prompts_behind(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, detach: bool
) -> None:
    asked = {"model": "scripted", "prompt": ["a", "b"], "timeout": 1}
    headers = {"Idempotency-Key": "mine"}
    with monkeypatch.context() as full:
        full.setattr(kernel.limits, "_detached" if detach else "_held", 1)
        refused = client.post("/v1/completions", json=asked | {"detach": detach}, headers=headers)
    assert (refused.status_code, kernel.store.page()) == (429, [])

    again = [client.post("/v1/completions", json=asked, headers=headers).headers["X-Job-Id"] for _ in range(2)]
    assert again[0] == again[1]
    assert len(kernel.store.page()) == len(again[0].split(", ")) == 2


def test_prompts_are_streamed_one_after_the_other(client: FlaskClient, worker: Worker) -> None:
    asked = {"model": "scripted", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    with meanwhile(lambda: [worker.answer(worker.next_job(), count) for count in (2, 3)]):
        text = client.post("/v1/completions", json=asked).get_data(as_text=True)
    *chunks, last, done = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]

    assert [(choice["index"], choice["text"]) for choice in choices] == [
        *((0, f"t{n} ") for n in (1, 2)),
        (0, ""),
        *((1, f"t{n} ") for n in (1, 2, 3)),
        (1, ""),
    ]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop", "stop"]
    assert (json.loads(last)["usage"]["completion_tokens"], done) == (4, "[DONE]")


def test_probabilities_stand_at_their_places_in_the_text_and_hold_the_drawn_token() -> None:
    def token(seq: int, text: str) -> Token:
        return Token(seq, text, logprobs=(Logprob(seq, text, -2.0, (Likely(9, "x", -0.5),)),))

    def told(index: int, *tokens: Token) -> Told:
        yield from ((index, event) for event in (*tokens, Ended(len(tokens) + 1, State.SUCCEEDED, "stop")))

    def both() -> Told:
        yield from told(0, token(1, "Well"), token(2, ", "), token(3, "yes"))
        yield from told(1, token(1, "No"), token(2, "."))

    jobs = [Job(id=name * 32, model="m", created_at=1.0, request={"n": 1}) for name in "ab"]
    body = CompletionBody(model="m", prompt=["a", "b"], stream=True, logprobs=1)
    text = "".join(_chunks(jobs, body, both()))
    choices = [json.loads(line[6:])["choices"][0] for line in text.splitlines() if line.startswith("data: {")]
    probable = [choice["logprobs"] for choice in choices if choice["logprobs"]]

    assert [entry["text_offset"] for entry in probable] == [[0], [4], [6], [0], [2]]
    assert probable[0]["top_logprobs"] == [{"x": -0.5, "Well": -2.0}]


def test_probabilities_of_the_prompt_are_refused() -> None:
    assert CompletionBody(model="m", prompt="x", echo=False, logprobs=1)
    with pytest.raises(ValueError, match="leave echo out"):
        CompletionBody(model="m", prompt="x", echo=True, logprobs=1)


def test_prompts_that_nobody_hears_any_more_end(client: FlaskClient, kernel: Kernel, worker: Worker) -> None:
    asked = {"model": "scripted", "prompt": ["a", "b", "c"], "stream": True}
    with meanwhile(lambda: started(worker)):
        response = client.post("/v1/completions", json=asked)
        next(response.iter_encoded())
        response.close()

    def ends() -> bool:
        jobs = [detail.job for detail in kernel.store.page()]
        return len(jobs) == 3 and all(job.end_requested or job.status == State.CANCELLED for job in jobs)

    until(ends)


def started(worker: Worker) -> None:
    job_id = worker.next_job()
    worker.tokens(job_id, worker.claim(job_id), 1, 1)
