"""Prompts of one tenant share no prefix cache with another's: how long an answer takes would tell what others asked."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from inference.protocol import Request
from inference.vllmanswer import Answer


@pytest.mark.parametrize(("salt", "told"), [("alice", "alice"), ("", None)])
def test_vllm_is_told_whose_prompt_it_is(monkeypatch: pytest.MonkeyPatch, salt: str, told: str | None) -> None:
    given: dict[str, Any] = {}
    fake = SimpleNamespace(tokens_input=lambda ids, **options: given.update(options, ids=ids))
    monkeypatch.setitem(sys.modules, "vllm.inputs", fake)
    monkeypatch.setattr("inference.vllmanswer.Detokenizer", lambda *_: None)

    answer = Answer(Request("1", (), salt=salt), "1", SimpleNamespace(vocabulary=None))  # type: ignore[arg-type]
    answer.begin(SimpleNamespace(ids=[1, 2], tokens=2, budget=1, stop=()))  # type: ignore[arg-type]
    answer.given()

    assert given == {"ids": [1, 2], "cache_salt": told}
