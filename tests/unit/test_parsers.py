"""Random input for everything that reads bytes of others: JSON bodies, frames of the bus, WebSocket frames, names."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.durations import FOR_EVER, seconds_of
from app.errors import InvalidRequestError
from app.events import BadEventError, Ended, Event, Likely, Log, Logprob, Progress, Token, Usage, decode, encode, frames
from app.names import check_hub_name, check_name
from app.web import bodies, ws

#: The same in every run: what random input finds belongs into a case of its own.
fixed = settings(derandomize=True, database=None, max_examples=150, deadline=None)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@fixed
@given(values)
def test_every_value_that_is_json_is_read_as_it_was_written(value: Any) -> None:
    for raw in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value).encode()):
        assert bodies.decode(raw, "It") == json.loads(raw)


@fixed
@given(st.binary(max_size=200) | texts.map(str.encode) | values.map(lambda v: json.dumps(v).encode()[:-1]))
def test_bytes_are_json_or_refused_in_one_way(raw: bytes) -> None:
    try:
        value = bodies.decode(raw, "It")
    except InvalidRequestError as error:
        assert error.message.startswith("It ")  # noqa: PT017 - either is right
        return
    assert value == json.loads(raw)
    json.dumps(value, allow_nan=False).encode()


@fixed
@given(st.dictionaries(texts, values, min_size=1, max_size=4), st.data())
def test_a_name_twice_is_refused_wherever_it_stands(fields: dict[str, Any], data: st.DataObject) -> None:
    twice = json.dumps(data.draw(st.sampled_from(sorted(fields))))
    inner = json.dumps(fields)[:-1] + f", {twice}: 1}}"
    for raw in (inner, f"[{inner}]", f'{{"a": [1, {inner}]}}'):
        with pytest.raises(InvalidRequestError, match="twice"):
            bodies.decode(raw, "It")


@fixed
@given(st.integers(1, 300))
def test_depth_has_one_limit(depth: int) -> None:
    raw = "[" * depth + "]" * depth
    if depth <= bodies.MAX_DEPTH:
        assert bodies.decode(raw, "It") is not None
    else:
        with pytest.raises(InvalidRequestError, match="too deeply"):
            bodies.decode(raw, "It")


ids = st.text("0123456789abcdef", min_size=32, max_size=32)
counts = st.integers(0, 2**31)
likely = st.builds(Likely, counts, texts, st.floats(-1000, 0))
logprobs = st.builds(Logprob, counts, texts, st.floats(-1000, 0), st.tuples(likely))
tokens = st.builds(
    Token,
    counts,
    texts,
    counts,
    st.tuples(counts, counts),
    st.integers(0, 15),
    texts,
    st.just(()) | st.tuples(logprobs),
)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts)
events = tokens | st.builds(Ended, counts, texts, texts, usages, texts, texts) | st.builds(Progress, texts)


@fixed
@given(st.lists(st.tuples(ids, events), max_size=6))
def test_events_come_out_of_a_message_as_they_went_in(sent: list[tuple[str, Event]]) -> None:
    message = b"".join(encode(job, event) for job, event in sent)
    assert [(job, decode(body)) for job, body in frames(message)] == sent


@fixed
@given(st.binary(max_size=120), st.lists(st.tuples(ids, events), max_size=3), st.integers(0, 200))
def test_broken_messages_are_one_named_error(junk: bytes, sent: list[tuple[str, Event]], cut: int) -> None:
    whole = b"".join(encode(job, event) for job, event in sent)
    for message in (junk, whole[:cut], whole + junk, whole[:cut] + junk):
        try:
            for _, body in frames(message):
                decode(body)
        except BadEventError:
            continue


@fixed
@given(st.binary(max_size=60) | values.map(msgspec.msgpack.encode))
def test_a_body_is_an_event_or_one_named_error(body: bytes) -> None:
    for read in (decode, Log.decode):
        try:
            read(body)
        except BadEventError:
            continue


@fixed
@given(st.lists(tokens, max_size=8))
def test_a_log_gives_the_transcript_back(said: list[Token]) -> None:
    numbered = [msgspec.structs.replace(token, seq=number, ids=()) for number, token in enumerate(said, 1)]
    text = "".join(token.text for token in numbered)
    again = Log.decode(Log.of(numbered).encode())
    for after in range(len(numbered) + 1):
        assert list(again.tokens(text, after)) == numbered[after:]


kinds = st.sampled_from([*ws.FRAMES, "explode"]) | values


@fixed
@given(st.fixed_dictionaries({"type": kinds}, optional={"ref": values, "job_id": values, "after": values}), values)
def test_a_frame_is_one_of_ours_or_refused(fields: dict[str, Any], extra: Any) -> None:
    for frame in (fields, fields | {"model": extra, "messages": extra}):
        try:
            ws._parse(frame)
        except InvalidRequestError as error:
            assert error.message  # noqa: PT017 - either is right
        assert ws._ref_of(frame) is None or len(str(ws._ref_of(frame))) <= ws.MAX_REF


@fixed
@given(st.text(max_size=40) | st.text("./:\\-_ab%\0\n", max_size=12))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    for check in (check_name, check_hub_name):
        try:
            found = check(name)
        except InvalidRequestError:
            continue
        parts = found.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(mark in found for mark in ("\0", "\n", "\\"))


@fixed
@given(st.text(max_size=12) | st.from_regex(r"-?[0-9.]{1,6}[smhd]{0,2}", fullmatch=True) | values)
def test_a_duration_is_seconds_or_refused(value: Any) -> None:
    try:
        seconds = seconds_of(value)
    except ValueError:
        return
    assert isinstance(seconds, float)
    assert math.isfinite(seconds)
    assert seconds >= 0 or seconds == FOR_EVER
