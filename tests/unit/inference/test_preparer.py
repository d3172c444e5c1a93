"""What is made ready beside an engine's loop, and who waits for whom there."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from inference import preparer, schema
from inference.errors import RefusedError
from inference.preparer import CHECKERS, Preparer
from inference.protocol import Failure, Request, Sampling

SOON = 20.0


class Answer:
    def __init__(self, request_id: str, form: str | None = None, tenant: str = "") -> None:
        self.request = Request(request_id, (), Sampling(schema=form), salt=tenant)
        self.prompt_tokens = 0
        self.over = False


class Checker:
    """Says that schemas are bad, once it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: SimpleQueue[str] = SimpleQueue()
        self.may = threading.Event()
        monkeypatch.setattr(schema, "fault", self._fault)

    def _fault(self, form: str) -> Failure | None:
        self.seen.put(form)
        assert self.may.wait(SOON)
        return Failure(Failure.INVALID_REQUEST, f"bad: {form}") if form != "good" else None


class Desk:
    """A preparer, and what it did."""

    def __init__(self) -> None:
        self.prepared: SimpleQueue[str] = SimpleQueue()
        self.refused: SimpleQueue[tuple[str, str, int]] = SimpleQueue()
        self.preparer: Preparer[Answer] = Preparer(self._prepare, self._refuse)

    def _prepare(self, answer: Answer) -> None:
        match answer.request.id:
            case "long":
                raise RefusedError(Failure.CONTEXT_OVERFLOW, "too long", 7)
            case "odd":
                raise KeyError("a fault of ours")
        self.prepared.put(answer.request.id)

    def _refuse(self, answer: Answer, failure: Failure) -> None:
        self.refused.put((answer.request.id, failure.code, answer.prompt_tokens))


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.preparer.close()


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checker]:
    checker = Checker(monkeypatch)
    yield checker
    checker.may.set()


def test_nobody_else_waits_while_schemas_are_checked(desk: Desk, checker: Checker) -> None:
    for number in range(CHECKERS + 1):
        desk.preparer.take(Answer(f"slow {number}", f"bad {number}"))
    for _ in range(CHECKERS):
        checker.seen.get(timeout=SOON)
    desk.preparer.take(Answer("quick"))
    assert desk.prepared.get(timeout=SOON) == "quick"
    assert desk.refused.empty()
    checker.may.set()
    refused = {desk.refused.get(timeout=SOON) for _ in range(CHECKERS + 1)}
    assert refused == {(f"slow {number}", Failure.INVALID_REQUEST, 0) for number in range(CHECKERS + 1)}


def test_the_schemas_of_one_tenant_let_another_s_pass(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparer, "CHECKERS", 1)
    desk = Desk()
    for number in range(4):
        desk.preparer.take(Answer(f"slow {number}", f"bad {number}", "greedy"))
    assert checker.seen.get(timeout=SOON) == "bad 0"
    desk.preparer.take(Answer("formed", "good", "another"))
    checker.may.set()
    assert desk.prepared.get(timeout=SOON) == "formed"
    assert [checker.seen.get(timeout=SOON) for _ in range(4)] == ["bad 1", "good", "bad 2", "bad 3"]
    desk.preparer.close()


def test_one_whose_schema_is_good_is_prepared_after_it(desk: Desk, checker: Checker) -> None:
    checker.may.set()
    desk.preparer.take(Answer("formed", "good"))
    assert desk.prepared.get(timeout=SOON) == "formed"


def test_the_schema_of_a_request_that_is_over_is_not_checked(desk: Desk, checker: Checker) -> None:
    answers = [Answer(f"{number}", f"bad {number}") for number in range(CHECKERS + 1)]
    for answer in answers:
        desk.preparer.take(answer)
    answers[-1].over = True
    checker.may.set()
    for _ in range(CHECKERS):
        desk.refused.get(timeout=SOON)
    desk.preparer.take(Answer("last", "bad last"))
    assert desk.refused.get(timeout=SOON)[0] == "last"
    assert {checker.seen.get_nowait() for _ in range(checker.seen.qsize())} == {"bad 0", "bad 1", "bad last"}


def test_what_cannot_be_prepared_is_refused_and_the_next_one_goes_on(desk: Desk) -> None:
    for name in ("long", "odd", "next"):
        desk.preparer.take(Answer(name))
    assert desk.prepared.get(timeout=SOON) == "next"
    assert [desk.refused.get(timeout=SOON) for _ in range(2)] == [
        ("long", Failure.CONTEXT_OVERFLOW, 7),
        ("odd", Failure.ENGINE_FAILED, 0),
    ]
