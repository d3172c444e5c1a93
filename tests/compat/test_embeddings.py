"""Vectors of texts, by both dialects."""

import math

import ollama
import openai
import pytest

from tests.stack import Stack

TEXTS = ["The cat sat on the mat.", "A cat was sitting on a rug.", "Interest rates rose by a quarter."]


def likeness(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.hypot(*one) / math.hypot(*other)


def test_vectors(client: openai.OpenAI, stack: Stack) -> None:
    raw = client.embeddings.with_raw_response.create(model="smollm2", input=TEXTS)
    made, job = raw.parse(), stack.job(raw.headers["X-Job-Id"])
    exact = client.embeddings.create(model="smollm2", input=TEXTS[0], encoding_format="float", dimensions=576)
    with ollama.Client(host=stack.url) as other:
        theirs = other.embed(model="smollm2", input=TEXTS)
        older = other.embeddings(model="smollm2", prompt=TEXTS[0])
    vectors = [entry.embedding for entry in made.data]

    assert (job["kind"], job["status"], job["request"]["inputs"]) == ("embed", "succeeded", TEXTS)
    assert [entry.index for entry in made.data] == [0, 1, 2]
    assert likeness(vectors[0], vectors[1]) > likeness(vectors[0], vectors[2])
    assert likeness(vectors[0], exact.data[0].embedding) > 0.999
    assert likeness(vectors[2], list(theirs.embeddings[2])) > 0.999
    assert likeness(vectors[0], list(older.embedding)) > 0.999
    assert made.usage.prompt_tokens == theirs.prompt_eval_count > 15


def test_what_has_no_vector(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no GGUF model"):
        client.embeddings.create(model="scripted", input="x")
    with pytest.raises(openai.BadRequestError, match="2048 tokens"):
        client.embeddings.create(model="smollm2", input="word " * 3000)
    with pytest.raises(openai.BadRequestError, match="vectors have 576"):
        client.embeddings.create(model="smollm2", input="x", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.embeddings.create(model="smollm2", input=[1, 2])
