"""Events and their form in bytes."""

import pytest

from app.events import BadEventError, Ended, Likely, Log, Logprob, Progress, Token, Usage, decode, encode, frames
from app.jobs import new_id


def test_frames_stand_one_behind_the_other() -> None:
    one, two = new_id(), new_id()
    message = encode(one, Token(1, "hé", ids=(3, 4), count=2)) + encode(two, Ended(2, "failed", code="x", message="y"))

    read = [(job_id, decode(body)) for job_id, body in frames(message)]

    assert read == [
        (one, Token(1, "hé", ids=(3, 4), count=2)),
        (two, Ended(2, "failed", usage=Usage(), code="x", message="y")),
    ]


@pytest.mark.parametrize("cut", [1, 33, 36, 40])
def test_bytes_that_break_off_are_one_named_error(cut: int) -> None:
    with pytest.raises(BadEventError):
        list(frames(encode(new_id(), Token(1, "hello"))[:cut]))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\xa1z\x01\x02", b"not msgpack at all"])
def test_junk_is_one_named_error(body: bytes) -> None:
    with pytest.raises(BadEventError):
        decode(body)


def test_progress_has_no_number() -> None:
    event = Progress("running", {"progress": 0.5})
    assert [decode(body) for _, body in frames(encode(new_id(), event))] == [event]


def test_the_log_gives_back_the_events_behind_a_number() -> None:
    tokens = [Token(1, "a", 1), Token(2, "", 2), Token(3, "bcd", 1)]
    log = Log.decode(Log.of(tokens).encode())

    assert list(log.tokens("abcd")) == tokens
    assert list(log.tokens("abcd", after=2)) == tokens[2:]
    assert list(log.tokens("abcd", after=9)) == []


def test_ids_sort_by_the_time_of_their_making() -> None:
    ids = [new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(len(job_id) == 32 for job_id in ids)
    assert ids[0][:12] <= ids[-1][:12]


def test_a_log_keeps_choices_their_ends_and_probabilities() -> None:
    told = Logprob(7, "b", -0.5, (Likely(7, "b", -0.5), Likely(8, "c", -1.5)))
    tokens = [Token(1, "a"), Token(2, "b", choice=1, logprobs=(told,)), Token(3, "", 0, choice=1, finish="stop")]

    log = Log.decode(Log.of(tokens).encode())

    assert list(log.tokens("ab")) == tokens
    assert list(log.tokens("ab", after=1)) == tokens[1:]
