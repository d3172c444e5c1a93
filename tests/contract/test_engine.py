from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference.catalog import build
from inference.errors import EngineDiedError
from inference.protocol import Emitted, Engine, Spec
from inference.remote import RemoteEngine
from tests.checkpoints import Checkpoints
from tests.contract.listener import Listener, make_request, part_read_after_abort
from tests.needs import needs

Load = Callable[[int], Listener]


def _in_process(spec: Spec) -> Engine:
    return build(spec, lambda fraction: None)


def _remote(spec: Spec) -> Engine:
    return RemoteEngine.load(spec, timeout=120)


ENGINES = [
    "scripted",
    "remote scripted",
    "remote llamacpp",
    pytest.param("transformers", marks=needs("transformers", "torch")),
    pytest.param("remote vllm", marks=needs("vllm", "torch")),
]
#: The fixture that has each engine's model.
MODELS = {"llamacpp": "starter_gguf", "transformers": "tiny_model", "vllm": "tiny_model"}
#: Engines that take long to load: tests share them where they leave them whole.
SHARED = {"vllm"}


@pytest.fixture(scope="session")
def tiny_model(checkpoints: Checkpoints) -> Path:
    """Its answers are gibberish, but loading it costs nothing, and its float32 gives the same text again."""
    return checkpoints("qwen3")


@pytest.fixture(scope="session")
def shared() -> Iterator[dict[tuple[str, int], Listener]]:
    """The engines that tests share."""
    listeners: dict[tuple[str, int], Listener] = {}
    yield listeners
    for listener in listeners.values():
        listener.__exit__()


@pytest.fixture(params=ENGINES)
def load(request: pytest.FixtureRequest, shared: dict[tuple[str, int], Listener]) -> Iterator[Load]:
    """Loads an engine with so many slots, and closes it after the test, or hands it on as it was."""
    kind = str(request.param)
    engine = kind.split()[-1]
    path: Path | None = request.getfixturevalue(MODELS[engine]) if engine in MODELS else None
    own: list[Listener] = []
    lent: list[Listener] = []
    may_share = engine in SHARED and request.node.get_closest_marker("breaks_the_engine") is None

    def load(slots: int = 2) -> Listener:
        if may_share and (listener := shared.get((engine, slots))):
            lent.append(listener)
            return listener
        spec = Spec(engine, str(path) if path else None, slots)
        listener = Listener(_remote(spec) if "remote" in kind else _in_process(spec)).__enter__()
        if may_share:
            shared[engine, slots] = listener
        (lent if may_share else own).append(listener)
        return listener

    yield load
    for listener in own:
        listener.__exit__()
    for listener in lent:
        listener.forget()


def test_it_streams_to_max_tokens_and_finishes_once(load: Load) -> None:
    listener = load(2)
    chunks = listener.ask(make_request("a", max_tokens=12, ignore_eos=True))
    assert sum(chunk.count for chunk in chunks) == 12
    assert len(chunks) > 1
    assert [chunk.finish for chunk in chunks if chunk.finish] == ["length"]
    assert chunks[-1].finish == "length"
    assert {chunk.prompt_tokens for chunk in chunks} == {chunks[0].prompt_tokens}
    assert chunks[0].prompt_tokens > 5


def test_it_says_what_it_loaded(load: Load) -> None:
    info = load(2).engine.info
    assert info.slots == 2
    assert info.pid > 0


def test_many_requests_at_once_each_get_their_own_answer(load: Load) -> None:
    listener = load(2)
    ids = [f"r{n}" for n in range(12)]
    for request_id in ids:
        listener.engine.submit(make_request(request_id, max_tokens=8, ignore_eos=True))
    listener.answer(*ids)
    assert {request_id: sum(chunk.count for chunk in listener.of(request_id)) for request_id in ids} == dict.fromkeys(
        ids, 8
    )


def test_an_abort_ends_a_request_and_frees_its_slot(load: Load) -> None:
    listener = load(1)
    listener.engine.submit(make_request("long", max_tokens=4000, ignore_eos=True, tokens_per_second=50.0))
    listener.wait_first("long")
    listener.engine.submit(make_request("next", max_tokens=3, ignore_eos=True))
    listener.engine.abort("long")
    listener.answer("next")
    assert not any(chunk.finish or chunk.error for chunk in listener.of("long"))
    said = len(listener.of("long"))
    listener.ask(make_request("later", max_tokens=3, ignore_eos=True))
    assert len(listener.of("long")) == said


def test_an_abort_withdraws_a_request_that_waits(load: Load) -> None:
    listener = load(1)
    listener.engine.submit(make_request("first", max_tokens=4000, ignore_eos=True, tokens_per_second=50.0))
    listener.wait_first("first")
    listener.engine.submit(make_request("waiting", max_tokens=3))
    listener.engine.abort("waiting")
    listener.engine.submit(make_request("last", max_tokens=3))
    listener.engine.abort("first")  # and not before the other was
    listener.answer("last")
    assert listener.of("waiting") == []


@pytest.mark.parametrize("load", ["remote llamacpp"], indirect=True)
def test_an_abort_ends_the_reading_of_a_long_prompt(load: Load) -> None:
    assert part_read_after_abort(load(1), times=10) < 0.5


def test_an_abort_of_a_stranger_is_no_fault(load: Load) -> None:
    listener = load(1)
    listener.engine.abort("nobody")
    assert listener.ask(make_request("a", max_tokens=2, ignore_eos=True))[-1].finish == "length"


def test_the_same_id_may_come_again_after_an_abort(load: Load) -> None:
    listener = load(1)
    listener.engine.submit(make_request("a", max_tokens=4000, ignore_eos=True, tokens_per_second=50.0))
    listener.wait_first("a")
    listener.engine.abort("a")
    listener.engine.submit(make_request("a", max_tokens=3, ignore_eos=True))
    assert listener.answer("a")[-1].finish == "length"


def test_a_stop_string_never_leaks(load: Load) -> None:
    listener = load(2)
    listener.ask(make_request("whole", max_tokens=8))
    whole = listener.text("whole")
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    chunks = listener.ask(make_request("stopped", max_tokens=8, stop=(stop,)))
    assert listener.text("stopped") == whole[: whole.find(stop)]
    assert chunks[-1].finish == "stop"
    assert len([chunk for chunk in chunks if chunk.finish]) == 1


def test_a_continuation_gives_the_text_of_an_undisturbed_answer(load: Load) -> None:
    listener = load(2)
    whole = listener.ask(make_request("whole", max_tokens=24))
    text = listener.text("whole")
    for cut in range(1, len(whole)):
        before = whole[:cut]
        emitted = Emitted(
            "".join(chunk.text for chunk in before),
            tuple(token for chunk in before for token in chunk.ids),
            sum(chunk.count for chunk in before),
        )
        rest = listener.ask(make_request(f"from {cut}", max_tokens=24, emitted=emitted))
        assert emitted.text + listener.text(f"from {cut}") == text
        assert rest[-1].finish == whole[-1].finish
        assert rest[-1].prompt_tokens == whole[-1].prompt_tokens
        assert emitted.count + sum(chunk.count for chunk in rest) == sum(chunk.count for chunk in whole)


def test_a_continuation_with_nothing_left_finishes_at_once(load: Load) -> None:
    listener = load(1)
    chunks = listener.ask(make_request("a", max_tokens=3, emitted=Emitted("t0 t1 t2", (0, 1, 2), 3)))
    assert [(chunk.text, chunk.count, chunk.finish) for chunk in chunks] == [("", 0, "length")]
    assert chunks[0].prompt_tokens > 5


def test_whoever_waits_is_admitted_by_priority_then_arrival(load: Load) -> None:
    listener = load(1)
    listener.engine.submit(make_request("first", max_tokens=1000, ignore_eos=True, tokens_per_second=100.0))
    listener.wait_first("first")
    for request_id, priority in (("batch", 7), ("usual", 5), ("usual 2", 5), ("urgent", 0)):
        listener.engine.submit(make_request(request_id, max_tokens=2, priority=priority, ignore_eos=True))
    # Prompts are prepared in order, and an abort overtakes them: with this one's answer the others wait for a slot.
    listener.ask(make_request("nothing", max_tokens=3, emitted=Emitted("t0 t1 t2", (0, 1, 2), 3)))
    listener.engine.abort("first")
    listener.answer("batch", "usual", "usual 2", "urgent")
    order = list(dict.fromkeys(chunk.id for chunk in listener.chunks if chunk.id))  # one without is the engine's report
    assert order == ["first", "nothing", "urgent", "usual", "usual 2", "batch"]


@pytest.mark.breaks_the_engine
def test_a_closed_engine_ends_its_steps_takes_no_request_and_may_be_closed_again(load: Load) -> None:
    listener = load(1)
    listener.engine.submit(make_request("a", max_tokens=4000, ignore_eos=True, tokens_per_second=50.0))
    listener.wait_first("a")
    listener.engine.close()
    listener.wait(lambda: listener.ended)
    assert listener.died is None
    with pytest.raises(EngineDiedError):
        listener.engine.submit(make_request("b"))
    listener.engine.close()
