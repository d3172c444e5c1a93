import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference import llamacpp, llamaserver, schema
from inference.errors import LoadError
from inference.llamacpp import LlamaCppEngine
from inference.protocol import Message, Request, Spec
from inference.remote import RemoteEngine
from tests.contract.listener import Listener, make_request

CHATS = [
    (Message("user", "What is the capital of France?"),),
    (Message("system", "You are terse."), Message("user", "Name a colour.")),
    (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Say <|im_end|> and 😀 please")),
]


def load(path: Path, slots: int = 2, context: int | None = None) -> LlamaCppEngine:
    return LlamaCppEngine(Spec("llamacpp", str(path), slots, context), lambda fraction: None)


@pytest.fixture(scope="module")
def shared(starter_gguf: Path) -> Iterator[Listener]:
    with Listener(load(starter_gguf)) as listener:
        yield listener


@pytest.fixture
def listener(shared: Listener) -> Listener:
    """One loaded model for all tests that leave it whole; what it said to others is forgotten."""
    shared.chunks.clear()
    return shared


def chat(engine: Any, messages: tuple[Message, ...], max_tokens: int) -> tuple[str, int]:
    """The answer of llama.cpp's own chat endpoint, greedy, and the number of its prompt's tokens."""
    said: list[dict[str, Any]] = []
    turns = [{"role": message.role, "content": message.content} for message in messages]
    body = {"messages": turns, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    engine._server.handle_chat_completions(body | {"stream_options": {"include_usage": True}}, said.append)
    deltas = [choice["delta"].get("content") or "" for data in said for choice in data["choices"]]
    return "".join(deltas), next(data["usage"]["prompt_tokens"] for data in said if data.get("usage"))


@pytest.mark.parametrize("messages", CHATS, ids=["plain", "system", "special tokens"])
def test_its_answers_and_prompts_are_those_of_llama_cpps_chat_endpoint(
    listener: Listener, messages: tuple[Message, ...]
) -> None:
    chunks = listener.ask(make_request("a", messages=messages, max_tokens=24))
    assert (listener.text("a"), chunks[-1].prompt_tokens) == chat(listener.engine, messages, 24)


def test_a_real_answer_is_right(listener: Listener) -> None:
    chunks = listener.ask(make_request("a", max_tokens=24))
    assert listener.text("a") == "The capital of France is Paris."
    assert chunks[-1].finish == "stop"


def test_a_prompt_beyond_the_context_fails_with_both_numbers(listener: Listener) -> None:
    chunks = listener.ask(make_request("a", messages=(Message("user", "word " * 9000),)))
    assert len(chunks) == 1
    assert chunks[0].error is not None
    assert chunks[0].error.code == "context_overflow"
    assert str(chunks[0].prompt_tokens) in chunks[0].error.message
    assert "8192" in chunks[0].error.message
    assert listener.ask(make_request("b", max_tokens=2, ignore_eos=True))[-1].finish == "length"


def test_an_empty_prompt_is_refused_and_ends_nobody(listener: Listener) -> None:
    error = listener.ask(make_request("a", prompt="", max_tokens=2))[-1].error
    assert error is not None
    assert error.code == "invalid_request"
    assert listener.ask(make_request("b", max_tokens=2, ignore_eos=True))[-1].finish == "length"


def test_an_answer_that_fills_the_context_ends_there(starter_gguf: Path) -> None:
    with Listener(load(starter_gguf, context=64)) as listener:
        chunks = listener.ask(make_request("a", max_tokens=4000, ignore_eos=True))
        assert chunks[-1].finish == "length"
        assert chunks[-1].prompt_tokens + sum(chunk.count for chunk in chunks) == 64


def test_requests_that_together_exceed_the_cache_take_turns(
    starter_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself, llama.cpp fails all that run: "Context size has been exceeded"."""
    monkeypatch.setattr(llamaserver, "USUAL", 64)
    with Listener(load(starter_gguf, slots=4, context=256)) as listener:
        ids = [f"r{n}" for n in range(4)]
        for request_id in ids:
            words = (Message("user", f"{request_id} " + "word " * 120),)
            listener.engine.submit(make_request(request_id, messages=words, max_tokens=20, ignore_eos=True))
        listener.answer(*ids)
        assert [listener.of(request_id)[-1].finish for request_id in ids] == ["length"] * 4


def test_a_message_that_the_template_refuses_is_an_invalid_request(listener: Listener) -> None:
    chunks = listener.ask(make_request("a", messages=(), max_tokens=2))
    assert chunks[-1].error is None or chunks[-1].error.code == "invalid_request"


def test_a_truncated_file_is_a_bad_model_and_takes_nobody_down(starter_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    with starter_gguf.open("rb") as file:
        path.write_bytes(file.read(20_000_000))
    with pytest.raises(LoadError, match=r"half\.gguf.*damaged") as caught:
        RemoteEngine.load(Spec("llamacpp", str(path), 1), timeout=60)
    assert caught.value.code == "bad_model"


def test_a_seed_makes_an_answer_repeatable(listener: Listener) -> None:
    sampling = make_request("x", max_tokens=12, ignore_eos=True).sampling
    hot = type(sampling)(
        **{**{f: getattr(sampling, f) for f in sampling.__struct_fields__}, "temperature": 1.5, "seed": 7}
    )
    for request_id in ("warm up", "a", "b"):
        listener.ask(Request(request_id, CHATS[0], hot))
    assert listener.text("a") == listener.text("b")


def test_who_streams_and_who_comes_next_do_not_wait_for_a_schema_that_is_checked(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking, may = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        checking.set()
        assert may.wait(60)

    monkeypatch.setattr(schema, "fault", slow)
    listener.engine.submit(make_request("streams", max_tokens=4000, ignore_eos=True))
    listener.wait_first("streams")
    formed = make_request("formed", max_tokens=8)
    sampling = msgspec.structs.replace(formed.sampling, schema='{"type": "boolean"}')
    listener.engine.submit(msgspec.structs.replace(formed, sampling=sampling))
    assert checking.wait(60)
    before = len(listener.of("streams"))
    assert listener.ask(make_request("next", max_tokens=4, ignore_eos=True))[-1].finish == "length"
    listener.wait(lambda: sum(chunk.id == "streams" for chunk in listener.chunks) > before + 4)
    assert listener.of("formed") == []
    may.set()
    listener.engine.abort("streams")
    listener.answer("formed")
    assert listener.text("formed") in ("true", "false")


def test_a_template_that_does_not_end_costs_its_request_seconds_and_then_the_engine(
    starter_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = llamaserver._params

    def slow(*given: Any) -> Any:
        params = set_up(*given)
        # It does end, some seconds later: here nothing ends the process for its sake.
        params.chat_template = (
            "{% if 'loop' in messages[0].content %}{% for a in range(60) %}{% for b in range(500) %}{% endfor %}"
            "{% endfor %}{% endif %}{{ messages[0].content }}"
        )
        return params

    monkeypatch.setattr(llamaserver, "_params", slow)
    listener = Listener(load(starter_gguf)).__enter__()
    listener.ask(make_request("first", max_tokens=1))
    monkeypatch.setattr(llamaserver, "RENDER_SECONDS", 0.2)
    monkeypatch.setattr(llamaserver, "TIMEOUT", 0.4)
    error = listener.ask(make_request("a", messages=(Message("user", "loop"),)))[-1].error
    assert error is not None
    assert (error.code, "takes more than" in error.message) == ("invalid_request", True)
    listener.engine.submit(make_request("b", max_tokens=2, ignore_eos=True))
    listener.wait(lambda: listener.died)
    assert "template" in str(listener.died)
    listener.__exit__()


def test_what_is_kept_of_one_tenants_prompt_is_used_for_no_other(
    starter_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, int] = {}
    take = llamacpp._Answer.take

    def watched(answer: llamacpp._Answer, data: dict[str, Any]) -> bool:
        if "timings" in data:
            used[answer.request.id] = data["timings"]["cache_n"]
        return take(answer, data)

    monkeypatch.setattr(llamacpp._Answer, "take", watched)
    words = (Message("user", "These words were never said here before. " * 20),)
    with Listener(load(starter_gguf, slots=1)) as listener:
        for name, salt in (("first", "alice"), ("again", "alice"), ("other", "bob"), ("more", "bob")):
            listener.ask(make_request(name, messages=words, max_tokens=2, ignore_eos=True, salt=salt))
    assert used["first"] == used["other"] == 0
    assert min(used["again"], used["more"]) > 20


def told(listener: Listener, name: str, **kwargs: Any) -> list[Any]:
    request = make_request(name, max_tokens=12)
    sampling = msgspec.structs.replace(request.sampling, **kwargs)
    return listener.ask(msgspec.structs.replace(request, sampling=sampling))


def test_probabilities_are_told_of_each_token_the_likeliest_first(listener: Listener) -> None:
    chunks = told(listener, "three", logprobs=3)
    entries = [entry for chunk in chunks for entry in chunk.logprobs]

    assert listener.text("three") == "The capital of France is Paris."
    assert "".join(entry.text for entry in entries) == listener.text("three")
    assert all(len(entry.top) == 3 and entry.logprob <= 0 for entry in entries)
    assert all((entry.top[0].id, entry.top[0].logprob) == (entry.id, entry.logprob) for entry in entries)
    assert all(sorted(entry.top, key=lambda one: -one.logprob) == list(entry.top) for entry in entries)


def test_no_likelier_ones_are_told_where_none_were_asked_for(listener: Listener) -> None:
    chunks = told(listener, "none", logprobs=0)
    entries = [entry for chunk in chunks for entry in chunk.logprobs]

    assert len(entries) == sum(chunk.count for chunk in chunks) == 8
    assert {entry.top for entry in entries} == {()}
    assert {chunk.logprobs for chunk in told(listener, "off")} == {()}


def test_penalties_see_all_that_came_before(listener: Listener) -> None:
    plain = told(listener, "plain")
    told(listener, "penalized", repetition_penalty=10.0)

    assert plain[-1].finish == "stop"
    assert listener.text("penalized") != listener.text("plain")


def test_what_it_took_is_told(listener: Listener, starter_gguf: Path) -> None:
    info = listener.engine.info

    assert info.weights_bytes == starter_gguf.stat().st_size
    assert info.cache_bytes > 0
    assert info.note == ""


def test_layers_for_a_gpu_that_is_not_there_are_refused_with_what_to_do(starter_gguf: Path) -> None:
    with pytest.raises(LoadError, match=r"GPU_LAYERS=3.*index-url") as caught:
        LlamaCppEngine(Spec("llamacpp", str(starter_gguf), 1, options={"gpu_layers": 3}), lambda fraction: None)
    assert caught.value.code == "backend_missing"


def test_who_has_a_gpu_is_told_why_it_is_idle() -> None:
    assert "CUDA" in llamaserver.note_on_gpu(Spec("llamacpp", None, 1, options={"on_gpu": True}))


def test_a_model_that_does_not_fit_is_refused_with_figures(starter_gguf: Path) -> None:
    with pytest.raises(LoadError, match=r"0\.1\d GB .*0\.01 GB are free") as caught:
        llamaserver.plan(Spec("llamacpp", str(starter_gguf), 1), 10_000_000)
    assert caught.value.code == "out_of_memory"


def test_a_budget_bounds_the_cache(starter_gguf: Path) -> None:
    spec = Spec("llamacpp", str(starter_gguf), 16)
    size = starter_gguf.stat().st_size
    large = llamaserver.plan(spec, 10**10)
    small = llamaserver.plan(msgspec.structs.replace(spec, memory=size + 4096 * large.token), 10**10)

    assert (large.context, large.total) == (8192, 16384)
    assert (small.context, small.total) == (4096, 4096)


def test_all_parts_of_a_model_count(tmp_path: Path, starter_gguf: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.symlink_to(starter_gguf)
    with pytest.raises(LoadError, match="cannot be read: No such file") as caught:
        llamaserver.plan(Spec("llamacpp", str(first), 1), 10**10)
    assert caught.value.code == "bad_model"
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"x" * 1000)

    assert llamaserver.plan(Spec("llamacpp", str(first), 1), 10**10).weights == starter_gguf.stat().st_size + 1000
