"""Tokens by a model's own tokenizer, without an engine."""

from tests.stack import Stack


def test_there_and_back(stack: Stack) -> None:
    text = "Grüße 😀 from <|im_start|>"
    cut = stack.http.post("/tokenize", json={"model": "smollm2-bf16", "prompt": text}).json()
    back = stack.http.post("/detokenize", json={"model": "smollm2-bf16", "tokens": cut["tokens"]}).json()
    assert back == {"prompt": text}
    assert cut["count"] == len(cut["tokens"]) > 5
    assert cut["max_model_len"] > 1000


def test_a_model_whose_tokenizer_is_not_a_file_of_its_own(stack: Stack) -> None:
    refused = stack.http.post("/tokenize", json={"model": "smollm2", "prompt": "x"})
    assert refused.status_code == 400
    assert "safetensors" in refused.json()["detail"]
