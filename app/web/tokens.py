"""Tokens of a text, by a model's own tokenizer. The shapes are those of vLLM's server."""

from typing import Annotated

from flask import Response, jsonify
from pydantic import Field

from app import tokens as tokenizing
from app.web.access import permitted
from app.web.answers import blueprint
from app.web.current import here
from app.web.offload import offload
from app.web.schemas import ModelName, Strict
from app.web.stock_answers import DetokenizedAnswer, TokenizedAnswer

tokens = blueprint("tokens", "models", "What this machine can run.")


#: Characters that are cut at a time: more than any context here holds; the worst of them take a thread half a second.
MAX_TEXT = 250_000


class TokenizeBody(Strict):
    """A text to cut into tokens."""

    model: ModelName
    prompt: Annotated[str, Field(max_length=MAX_TEXT)]
    add_special_tokens: bool = True


class DetokenizeBody(Strict):
    """Tokens to join."""

    model: ModelName
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=1_000_000, fail_fast=True)]


@tokens.post("/tokenize", summary="Cut a text into tokens", responses={200: TokenizedAnswer})
def tokenize(body: TokenizeBody) -> Response:
    """Without loading the model, by what its own files say of its tokenizer."""
    model = permitted(here().kernel.catalog.get(body.model))
    ids = offload(tokenizing.encode, model, body.prompt, special=body.add_special_tokens)
    return jsonify({"count": len(ids), "max_model_len": model.facts.get("context"), "tokens": ids})


@tokens.post("/detokenize", summary="Join tokens to a text", responses={200: DetokenizedAnswer})
def detokenize(body: DetokenizeBody) -> Response:
    """Special tokens show."""
    model = permitted(here().kernel.catalog.get(body.model))
    return jsonify({"prompt": offload(tokenizing.decode, model, body.tokens)})
