"""OpenAI's own Python package, unmodified."""

import asyncio

import openai
import pytest

from tests.stack import Stack

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer briefly."}]
ANSWER = "The capital of France is Paris."


def test_a_chat(client: openai.OpenAI, stack: Stack) -> None:
    raw = client.chat.completions.with_raw_response.create(model="smollm2", messages=QUESTION, temperature=0)
    answer = raw.parse()

    assert answer.choices[0].message.content == ANSWER
    assert (answer.choices[0].finish_reason, answer.object) == ("stop", "chat.completion")
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert stack.job(raw.headers["X-Job-Id"])["text"] == ANSWER


def test_a_streamed_chat_with_usage(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": QUESTION[0]["content"]}]
    stream = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8


def test_several_choices(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="scripted", messages=QUESTION, n=3, max_tokens=4, stream=True)
    texts, reasons = ["", "", ""], {}
    for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    whole = client.chat.completions.create(model="scripted", messages=QUESTION, n=2, max_tokens=3)

    assert texts == ["t0 t1 t2 t3"] * 3
    assert reasons == dict.fromkeys(range(3), "length")
    assert [c.message.content for c in whole.choices] == ["t0 t1 t2"] * 2


def test_an_async_client(stack: Stack) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0) for _ in range(3))
            )
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [ANSWER] * 3


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="scripted", prompt=["one two", "three"], max_tokens=3, n=2)
    echoed = client.completions.create(model="smollm2", prompt="The capital of France is", max_tokens=5, echo=True)
    streamed = client.completions.create(model="scripted", prompt=["one", "two"], max_tokens=3, stream=True)

    assert [(c.index, c.text) for c in whole.choices] == [(n, "t0 t1 t2") for n in range(4)]
    assert whole.usage.prompt_tokens == 3
    assert echoed.choices[0].text.startswith("The capital of France is")
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["t0 t1 t2"] * 2


def test_models(client: openai.OpenAI) -> None:
    assert {"smollm2", "scripted"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("smollm2").id == "smollm2"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_errors_are_those_that_the_package_knows(client: openai.OpenAI) -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no/such", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=9)
    with pytest.raises(openai.BadRequestError) as part:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": image}])
    with pytest.raises(openai.APIStatusError) as late:
        client.chat.completions.create(
            model="scripted",
            messages=QUESTION,
            max_tokens=9000,
            extra_body={"timeout": 1, "scripted_tokens_per_second": 5},
        )

    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="smollm2", prompt="word " * 9000)

    assert long.value.code == "context_length_exceeded"
    assert unknown.value.code == "model_not_found"
    assert "Pull it first" in unknown.value.body["message"]
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    assert "image_url" in str(part.value)
    assert late.value.status_code == 408
