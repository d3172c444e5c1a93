"""Tokens by a model's own tokenizer, without an engine."""

import pytest

from tests.stack import Stack


@pytest.mark.parametrize("model", ["smollm2", "smollm2-bf16"])
def test_there_and_back(stack: Stack, model: str) -> None:
    text = "Grüße 😀 from <|im_start|>"
    cut = stack.http.post("/tokenize", json={"model": model, "prompt": text}).json()
    back = stack.http.post("/detokenize", json={"model": model, "tokens": cut["tokens"]}).json()
    assert back == {"prompt": text}
    assert cut["count"] == len(cut["tokens"]) > 5
    assert cut["max_model_len"] > 1000


def test_the_engine_counts_the_same(stack: Stack) -> None:
    text = "In 1789, it's said:\n\n  3.14159 of them weren't there."
    cut = stack.http.post("/tokenize", json={"model": "smollm2", "prompt": text}).json()
    body = {"model": "smollm2", "prompt": text, "raw": True, "stream": False, "options": {"num_predict": 1}}
    assert stack.http.post("/api/generate", json=body).json()["prompt_eval_count"] == cut["count"]


def test_a_model_whose_tokenizer_is_in_no_file(stack: Stack) -> None:
    refused = stack.http.post("/tokenize", json={"model": "scripted", "prompt": "x"})
    assert refused.status_code == 400
    assert "engine alone" in refused.json()["detail"]
