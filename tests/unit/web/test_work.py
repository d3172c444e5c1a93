"""How much work one request can make: its size bounds it, and no input costs the square of its length."""

import json
import time
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from app.errors import InvalidRequestError
from app.models import Job
from app.web import bodies, markdown
from app.web.fold import Fold
from app.web.tokens import MAX_TEXT
from tests.badinput import MALFORMED

from .conftest import Worker, submitted

TOOLS = json.dumps([{"type": "function", "function": {"name": "f"}}])


def seconds(act: Callable[[], object]) -> float:
    """The best of three, by the processor's own clock."""

    def once() -> float:
        began = time.process_time()
        act()
        return time.process_time() - began

    return min(once() for _ in range(3))


@pytest.mark.parametrize("name", ["700,000 lists", "11,500 times 90 levels"])
def test_a_body_of_nothing_but_lists_is_refused_before_it_is_read(name: str) -> None:
    def read() -> None:
        with pytest.raises(InvalidRequestError, match="lists and objects"):
            bodies.decode(MALFORMED[name], "It")

    assert seconds(read) < 0.2  # it was 1.5 and 3


def test_braces_in_texts_are_no_objects() -> None:
    said = {"x": '{"[\\' * 40_000, "y": [{}] * 19_000}
    assert bodies.decode(json.dumps(said), "It") == said
    for text in ('"' + "[" * 30_000, "[" * 30_000 + '"' + '\\"' * 500_000):
        with pytest.raises(InvalidRequestError):
            bodies.decode(text, "It")


def test_the_arguments_of_calls_are_bounded_together(client: FlaskClient) -> None:
    arguments = json.dumps({"x": [[]] * 13_000})
    calls = [{"id": str(n), "type": "function", "function": {"name": "f", "arguments": arguments}} for n in range(30)]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]
    refused = client.post("/v1/chat/completions", json={"model": "scripted", "messages": said})
    assert refused.status_code == 400
    assert "lists and objects" in refused.get_json()["error"]["message"]


def test_a_large_body_is_read_off_the_loop_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(bodies, "offload_one", lambda fn, raw, what: asked.append(len(raw)) or fn(raw, what))
    for size in (100, bodies.LARGE):
        assert bodies.decode(json.dumps("x" * size), "It")
    assert asked == [bodies.LARGE + 2]


@pytest.mark.parametrize("calls", ['{"name": "f"}', "[]", '{"name": "f"};  '])
def test_many_calls_are_read_in_time_as_their_length(calls: str) -> None:
    def read(count: int) -> None:
        Fold(Job(id="0" * 32, request={"tools": TOOLS})).whole("{}" + calls * count)

    assert seconds(lambda: read(80_000)) < 10 * seconds(lambda: read(20_000))  # four times; the square was sixteen


@pytest.mark.parametrize(
    "piece", ['<tool_call>{"name": "f"}</tool_call>', "<tool_call>x</tool_call>", "<think></think>"]
)
@pytest.mark.parametrize("begin", ["", "{"])
def test_many_blocks_are_read_in_time_as_their_length(begin: str, piece: str) -> None:
    def read(count: int) -> None:
        Fold(Job(id="0" * 32, request={"tools": TOOLS})).whole(begin + piece * count)

    assert seconds(lambda: read(20_000)) < 10 * seconds(lambda: read(5_000)) + 0.01


@pytest.mark.parametrize("begin", ["<tool_call>", "[TOOL_CALLS]", "{"])
@pytest.mark.parametrize("piece", ["x" * 32, " " * 32])
def test_what_never_closes_is_followed_in_time_as_its_length(begin: str, piece: str) -> None:
    def follow(count: int) -> None:
        fold = Fold(Job(id="0" * 32, request={"tools": TOOLS}))
        for text in [begin, *[piece] * count]:
            assert fold.feed(text) == ("", "", ())
        fold.end()

    assert seconds(lambda: follow(20_000)) < 10 * seconds(lambda: follow(5_000)) + 0.01


def test_calls_stand_behind_one_another() -> None:
    said = '{"name": "f"} ;\n,{"name": "f", "arguments": {"a": 1}}[{"name": "f"}]  '
    calls = Fold(Job(id="0" * 32, request={"tools": TOOLS})).whole(said).calls
    assert [call.arguments for call in calls] == ["{}", '{"a": 1}', "{}"]
    broken = Fold(Job(id="0" * 32, request={"tools": TOOLS})).whole(said + "x")
    assert broken.calls == ()


def test_a_text_to_tokenise_is_bounded(client: FlaskClient) -> None:
    told = [client.post("/tokenize", json={"model": "scripted", "prompt": "a" * size}) for size in (MAX_TEXT + 1, 5)]
    assert [answer.status_code for answer in told] == [400, 400]
    first, second = (answer.get_json()["error"]["message"] for answer in told)
    assert "250000" in first
    assert "250000" not in second  # the scripted model has no tokenizer


@pytest.mark.parametrize("piece", ["![", "*a_ ", "[a\n", "_a", "|a", "**x", "\\", "<a ", "`", "- "])
def test_no_markdown_costs_the_square_of_its_length(piece: str) -> None:
    small, large = (piece * (size // len(piece)) for size in (markdown.MAX_TEXT // 4, markdown.MAX_TEXT))
    assert seconds(lambda: markdown.render(large)) < 12 * seconds(lambda: markdown.render(small)) + 0.05


def test_an_answer_too_long_for_html_says_where_its_text_is(client: FlaskClient, worker: Worker) -> None:
    job = submitted(worker.kernel)
    worker.answer(job.id)
    path = f"/jobs/{job.id}?format=html"
    assert client.get(path).get_json()["html"].startswith("<p>t1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markdown, "MAX_TEXT", 5)
        refused = client.get(path)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "format")
    assert "`text`" in refused.get_json()["error"]["message"]
