"""Answers taken apart: thoughts, content, calls. However the text was cut, the parts are the same."""

import json
from typing import Any

import pytest

from app.models import Job
from app.stock import Model
from app.web.fold import Fold, Parts, opens_thought

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("weather", "time")]
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'


def job(**request: Any) -> Job:
    return Job(id="0" * 32, request=request)


def with_tools(**request: Any) -> Job:
    return job(tools=json.dumps(TOOLS), **request)


def told(row: Job, text: str, size: int) -> Parts:
    """Fed in pieces of a size."""
    fold, parts = Fold(row), Parts()
    for at in range(0, len(text), size):
        parts += fold.feed(text[at : at + size])
    return parts + fold.end()


def short(parts: Parts) -> tuple[str, str, list[tuple[str, dict[str, Any]]]]:
    return parts.content, parts.thought, [(call.name, json.loads(call.arguments)) for call in parts.calls]


WEATHER = ("weather", {"city": "Köln"})
CASES = [
    (job(), "Hello <tool_call> { there", ("Hello <tool_call> { there", "", [])),
    (job(), "<think>\nWell…\n</think>\n\nYes.", ("Yes.", "Well…", [])),
    (job(), "<think>never ended", ("", "never ended", [])),
    (job(), "<table>", ("<table>", "", [])),
    (job(thinks=True), "Well…\n</think>\n\nYes. </think>", ("Yes. </think>", "Well…", [])),
    (job(thinks=True, think=False), "Yes.", ("Yes.", "", [])),
    (job(thinks=True, sampling={"schema": "{}"}), '{"a": 1}', ('{"a": 1}', "", [])),
    (with_tools(), f"<tool_call>\n{CALL}\n</tool_call>", ("", "", [WEATHER])),
    (
        with_tools(),
        f'<think>a</think>I look. <tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "time"}}</tool_call>',
        ("I look.", "a", [WEATHER, ("time", {})]),
    ),
    (with_tools(single=True), f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", ("", "", [WEATHER])),
    (with_tools(), f"<tool_call>{CALL}", ("", "", [WEATHER])),
    (with_tools(), "<tool_call>no JSON</tool_call> x", ("<tool_call>no JSON</tool_call> x", "", [])),
    (with_tools(), '{"name": "weather", "parameters": {"city": "Köln"}}', ("", "", [WEATHER])),
    (with_tools(), f"<|python_tag|>{CALL}; {CALL}", ("", "", [WEATHER, WEATHER])),
    (with_tools(), '{"name": "unknown", "arguments": {}}', ('{"name": "unknown", "arguments": {}}', "", [])),
    (with_tools(), '{"a": [1, 2]} is JSON', ('{"a": [1, 2]} is JSON', "", [])),
    (with_tools(), f"[TOOL_CALLS][{CALL}, {CALL}]", ("", "", [WEATHER, WEATHER])),
    (with_tools(), f"[{CALL}]", ("", "", [WEATHER])),
    (
        with_tools(),
        '[TOOL_CALLS]weather[ARGS]{"city": "Köln"}[TOOL_CALLS]time{}',
        ("", "", [WEATHER, ("time", {})]),
    ),
    (with_tools(), "a < b <tool", ("a < b <tool", "", [])),
    (with_tools(forced=True), CALL, ("", "", [WEATHER])),
    (with_tools(forced=True), CALL[:20], (CALL[:20], "", [])),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(("row", "text", "parts"), CASES)
def test_the_parts_of_an_answer(row: Job, text: str, parts: tuple[Any, ...], size: int) -> None:
    assert short(told(row, text, size)) == parts


def test_content_does_not_wait_longer_than_it_must() -> None:
    fold = Fold(with_tools())
    assert [fold.feed(text).content for text in ("Hi", " you", " <", "b>")] == ["Hi", " you", "", " <b>"]


def test_calls_are_numbered_the_same_for_every_follower() -> None:
    row, text = with_tools(), f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"
    ids = [[call.id for call in told(row, text, size).calls] for size in (3, 50)]
    assert ids[0] == ids[1]
    assert len({*ids[0], *(call.id for call in Fold(row, 1).whole(text).calls)}) == 4
    assert all(len(ident) == 9 and ident.isalnum() for ident in ids[0]), "Mistral's templates refuse any others"


def test_templates_that_begin_the_thought() -> None:
    def model(template: str) -> Model:
        return Model(facts={"template": template})

    assert opens_thought(model("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"))
    assert not opens_thought(model("{% if add_generation_prompt %}{% if x %}<think>\n\n</think>{% endif %}{% endif %}"))
    assert not opens_thought(model("{{ '<think>' }}{% if add_generation_prompt %}a{% endif %}"))
    assert not opens_thought(Model(facts={}))
