"""Conversations that the server remembers."""

import time
from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database
from app.errors import SessionNotFoundError
from app.jobs import State
from app.models import ChatSession, Job, Result
from app.sessions import ENVELOPE, KEY, MOST_TEXT, Sessions, trimmed
from app.store import Outcome, Store
from tests.unit.conftest import make_job
from tests.unit.test_store import a_result

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


class Talk:
    """Jobs of sessions, each asked and answered when a test says so."""

    def __init__(self, database: Database, store: Store, life: str) -> None:
        self.sessions = Sessions(database, ttl=60, turns=20)
        self._store = store
        self._life = life

    def ask(self, *messages: dict[str, Any], turns: int | None = None, **values: Any) -> Job:
        job = make_job(request={"messages": list(messages), KEY: self.sessions.note("s", turns)}, **values)
        self._store.submit(job)
        return job

    def answer(self, job: Job, text: str, state: State = State.SUCCEEDED) -> bool:
        claimed = self._store.claim(job.id, self._life, "cpu.0@here")
        assert claimed is not None
        return self._store.finish(Outcome(job.id, claimed.attempt, state), result(job, text))

    def said(self) -> list[dict[str, Any]]:
        return list(self.sessions.get("s", "").history["messages"])


def result(job: Job, text: str) -> Result:
    made = a_result(job.id)
    made.text = text
    return made


@pytest.fixture
def talk(database: Database, store: Store, life: str) -> Talk:
    return Talk(database, store, life)


def test_a_second_request_goes_on_with_what_was_said(talk: Talk) -> None:
    first = talk.ask(SYSTEM, user("one?"))
    assert first.request["messages"] == [SYSTEM, user("one?")]
    assert talk.said() == []
    talk.answer(first, "one.")

    second = talk.ask(user("two?"))

    assert second.request["messages"] == [SYSTEM, user("one?"), assistant("one."), user("two?")]
    talk.answer(second, "two.")
    assert talk.said() == [*second.request["messages"], assistant("two.")]


def test_two_requests_at_once_see_one_history_and_end_in_their_order(talk: Talk) -> None:
    talk.answer(talk.ask(user("0?")), "0.")
    one, two = talk.ask(user("1?")), talk.ask(user("2?"))
    assert one.request["messages"][:-1] == two.request["messages"][:-1] == [user("0?"), assistant("0.")]
    talk.answer(two, "2.")
    talk.answer(one, "1.")
    assert [m["content"] for m in talk.said()] == ["0?", "0.", "2?", "2.", "1?", "1."]


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.TIMED_OUT])
def test_only_an_answer_is_remembered(talk: Talk, state: State) -> None:
    job = talk.ask(user("?"))
    talk.answer(job, "half an ans", state)
    assert talk.said() == []


def test_a_job_that_lost_its_attempt_appends_nothing(talk: Talk, store: Store, life: str) -> None:
    job = talk.ask(user("?"))
    claimed = store.claim(job.id, life, "cpu.0@here")
    assert claimed is not None
    store.hand_back(job.id, claimed.attempt, 0)
    assert not store.finish(Outcome(job.id, claimed.attempt, State.SUCCEEDED), result(job, "late"))
    assert talk.said() == []


def test_what_the_history_may_have_of_turns_is_kept_and_the_system_message_with_it(talk: Talk) -> None:
    for n in range(4):
        talk.answer(talk.ask(*([SYSTEM] if n == 0 else []), user(f"{n}?"), turns=2), f"{n}.")
    assert [m["content"] for m in talk.said()] == ["Be brief.", "2?", "2.", "3?", "3."]
    narrow = talk.ask(user("4?"), turns=1)
    assert [m["content"] for m in narrow.request["messages"]] == ["Be brief.", "3?", "3.", "4?"]


def test_a_new_system_message_replaces_the_earlier_one(talk: Talk) -> None:
    talk.answer(talk.ask(SYSTEM, user("1?")), "1.")
    again = talk.ask({"role": "system", "content": "Be long."}, user("2?"))
    assert [m["content"] for m in again.request["messages"]] == ["Be long.", "1?", "1.", "2?"]


def test_a_session_has_a_bound_of_text_however_few_its_turns_are() -> None:
    turn = [user("x" * (MOST_TEXT // 2)), assistant("y" * 10)]
    assert trimmed(turn * 3, 20) == turn
    assert trimmed([user("x" * 2 * MOST_TEXT)], 20) == [user("x" * 2 * MOST_TEXT)]  # the last message stays whole
    assert trimmed([SYSTEM], 20) == [SYSTEM]


@pytest.mark.parametrize("first", [[], [user("?")]])
@pytest.mark.parametrize("length", [0, 300_000])
def test_a_turn_without_an_end_has_a_bound_too(first: list[dict[str, Any]], length: int) -> None:
    """Kept 76 MB: without a user's word there was no turn to drop."""
    said = [SYSTEM, *first]
    for number in range(20):
        tools = [{"role": "tool", "content": "x" * length, "n": number}] * (2000 if length == 0 else 3)
        said = trimmed([*said, *tools, assistant("ok")], 20)
    assert said[0] == SYSTEM
    assert said[-1] == assistant("ok")
    assert MOST_TEXT / 2 < sum(len(message["content"]) + ENVELOPE for message in said[1:]) <= MOST_TEXT


def age(database: Database, seconds: float) -> None:
    with database.write() as session:
        row = session.get(ChatSession, ("", "s"))
        assert row is not None
        row.used_at -= seconds


def test_an_idle_session_is_forgotten(talk: Talk, database: Database) -> None:
    talk.answer(talk.ask(user("1?")), "1.")
    age(database, 59)
    assert talk.sessions.prune() == 0
    age(database, 2)
    with pytest.raises(SessionNotFoundError):
        talk.sessions.get("s", "")
    assert talk.ask(user("2?")).request["messages"] == [user("2?")]
    age(database, 1e6)
    assert talk.sessions.prune() == 1
    assert talk.sessions.prune() == 0


def test_a_session_does_not_expire_under_a_job_that_waits(talk: Talk, database: Database) -> None:
    job = talk.ask(user("?"), expires_at=time.time() + 3600)
    age(database, 3000)
    assert talk.sessions.prune() == 0
    talk.answer(job, ".")
    assert talk.sessions.get("s", "").used_at == pytest.approx(time.time(), abs=5)


def test_a_session_that_was_forgotten_under_a_job_stays_so(talk: Talk) -> None:
    job = talk.ask(user("1?"))
    talk.sessions.remove("s", "")
    with pytest.raises(SessionNotFoundError):
        talk.sessions.remove("s", "")
    fresh = talk.ask(user("2?"))
    assert talk.answer(job, "1.")
    assert talk.said() == []
    talk.answer(fresh, "2.")
    assert [m["content"] for m in talk.said()] == ["2?", "2."]


def test_a_job_that_is_not_accepted_begins_no_session(talk: Talk, store: Store) -> None:
    job = make_job()
    store.submit(job)
    with pytest.raises(sa.exc.IntegrityError):
        talk.ask(user("?"), id=job.id)
    with pytest.raises(SessionNotFoundError):
        talk.sessions.get("s", "")


def test_tenants_do_not_hear_each_other(talk: Talk) -> None:
    talk.answer(talk.ask(user("secret?"), tenant="a"), "secret.")
    assert talk.ask(user("?"), tenant="b").request["messages"] == [user("?")]
    with pytest.raises(SessionNotFoundError):
        talk.sessions.get("s", "")
    assert talk.sessions.get("s", tenant="a").history["messages"] == [user("secret?"), assistant("secret.")]
