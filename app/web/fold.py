"""From an answer's text to its parts: thoughts, content, calls of tools. A pure fold over the event log.

It needs nothing but the job's row and the text so far, so whoever follows from whichever place and process sees the
same parts; and no engine's own parsers, as those die with the engine. See docs/decisions.

Calls are told whole, when their JSON has ended; content that may turn out to be one waits until that is known.
"""

import hashlib
import json
import re
from typing import Any, NamedTuple

from app.models import Job
from app.stock import Model

_OPEN, _CLOSE = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_MISTRAL = "[TOOL_CALLS]"
#: What a call without marks begins with, in answers of Llama 3 and of Mistral behind silent special tokens.
_TAG = "<|python_tag|>"
_BARE = ("{", "[", _TAG)
#: What stands between two calls.
_BETWEEN = frozenset(" \n;,")
_BLANKS = re.compile(r"\s*")
_decoder = json.JSONDecoder()


class Call(NamedTuple):
    """A call of a tool; `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str


class Parts(NamedTuple):
    """What some text turned out to be."""

    content: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()

    def __add__(self, other: "Parts") -> "Parts":  # type: ignore[override]  # not a tuple's own
        return Parts(self.content + other.content, self.thought + other.thought, self.calls + other.calls)


class Fold:
    """One choice of one job. `thinks`: the template has opened the thought in the prompt."""

    def __init__(self, job: Job, choice: int = 0) -> None:
        request = job.request
        self._tools = {tool["function"]["name"] for tool in json.loads(request.get("tools") or "[]")}
        self._single: bool = request.get("single", False)
        self._ident = f"{job.id}/{choice}"
        self._held = ""
        self._at = 0  #: how much of that is dealt with: to cut it off each time would take the square of its length
        self._more: list[str] = []  #: what came since
        self._awaited: str | None = None
        self._tail = ""
        thinks = request.get("thinks") and request.get("think") is not False
        # What is held to a form is held to it from its first token: no thought can come, whatever the template opened.
        formed = request.get("sampling", {}).get("schema") is not None
        self._state = "bare" if request.get("forced") else "thinking" if thinks and not formed else "start"
        self._opened = False  #: whether the thought has begun, behind the blank before it
        self._begun = False  #: whether a thought has ended
        self.calls = 0

    def feed(self, text: str) -> Parts:
        """What may be told by now."""
        if self._state == "plain" and not self._tools:
            return Parts(text)
        self._more.append(text)
        return Parts() if self._waits(text) else self._go_on(last=False)

    def end(self) -> Parts:
        """What is left: nothing more comes."""
        return self._go_on(last=True)

    def whole(self, text: str) -> Parts:
        """All of a finished text."""
        return self.feed(text) + self.end()

    def _waits(self, text: str) -> bool:
        """Whether a look at what is held would tell nothing yet; each look costs time as its length."""
        if self._awaited is None:
            return not text.strip()  # blanks are told with what follows them
        seen = self._tail + text
        self._tail = seen[-len(_CALLED) :]
        return not self._awaited or self._awaited not in seen

    def _wait_for(self, mark: str) -> Parts:
        """Nothing is told until this comes; "": until the end."""
        self._awaited, self._tail = mark, self._held[-len(_CALLED) :]
        return Parts()

    def _go_on(self, *, last: bool) -> Parts:
        self._held += "".join(self._more)
        self._more, self._awaited = [], None
        steps = {
            "start": self._start,
            "thinking": self._think,
            "bare": self._bare,
            "plain": self._plain,
            "call": self._marked,
        }
        told, before = [], None
        while before != (before := (self._state, self._at)):
            told.append(steps[self._state](last))
        self._held, self._at = self._held[self._at :], 0
        return _joined(told)

    def _start(self, last: bool) -> Parts:
        begin = _behind_blanks(self._held, self._at)
        if self._begun:  # the blank between a thought and the answer is no part of either
            self._at = begin
        text = self._held[begin : begin + len(_TAG) + 1]  # as much as matters
        if text.startswith(_OPEN):
            self._at, self._state = begin + len(_OPEN), "thinking"
        elif last or (text and not (_OPEN.startswith(text) or (self._tools and _TAG.startswith(text)))):
            self._state = "bare" if self._tools and text.startswith(_BARE) else "plain"
        return Parts()

    def _think(self, last: bool) -> Parts:
        end = self._held.find(_CLOSE, self._at)
        if end >= 0:
            thought = self._held[self._at : end].rstrip()
            self._at, self._state, self._begun = end + len(_CLOSE), "start", True
        else:
            size = len(self._held) - (0 if last else _overlap(self._held, _CLOSE))
            thought = self._held[self._at : size].rstrip()  # blanks before the end are no part of it
            self._at = len(self._held) if last else self._at + len(thought)
        if not self._opened:
            thought = thought.lstrip()
            self._opened = bool(thought)
        return Parts(thought=thought)

    def _bare(self, last: bool) -> Parts:
        """The answer is one call or several, as JSON alone; or it only began like one."""
        text = self._held[self._at :]
        if text.startswith(_MISTRAL) or _MISTRAL.startswith(text.strip() or " "):
            self._state = "plain" if text.startswith(_MISTRAL) or last else "bare"
            return Parts()
        if not last:
            return self._wait_for("")
        text = text.strip().removeprefix(_TAG)
        if text and (calls := self._calls(text)) is not None:
            self._at = len(self._held)
            return Parts(calls=calls)
        self._state = "plain"
        return Parts()

    def _plain(self, last: bool) -> Parts:
        begin = self._at
        for mark in (_CALL, _MISTRAL) if self._tools else ():
            found = self._held.find(mark, begin)
            if found >= 0:
                self._state, self._at = "call", found
                return Parts(self._held[begin:found].rstrip())
        text = self._held[begin:]
        text = text[: len(text) if last or not self._tools else _certain(text)]
        self._at += len(text)
        return Parts(text)

    def _marked(self, last: bool) -> Parts:
        """Behind a mark."""
        begin, size = self._at, len(self._held)
        if self._held.startswith(_MISTRAL, begin):
            if not last:
                return self._wait_for("")
            after, calls = size, self._mistral(self._held[begin + len(_MISTRAL) :])
        else:
            end = self._held.find(_CALLED, begin)
            if end < 0 and not last:
                return self._wait_for(_CALLED)
            after = end + len(_CALLED) if end >= 0 else size
            calls = self._calls(self._held[begin + len(_CALL) : after].removesuffix(_CALLED))
        self._state, self._at = "plain", after if calls is None else _behind_blanks(self._held, after)
        return Parts(self._held[begin:after]) if calls is None else Parts(calls=calls)

    def _mistral(self, text: str) -> tuple[Call, ...] | None:
        """A list of calls; or, of newer models, `name[ARGS]{…}`, or `name{…}`, one behind the other."""
        if text.lstrip().startswith("["):
            return self._calls(text)
        calls: list[Call] = []
        for part in text.split(_MISTRAL):
            name, brace, rest = part.partition("{")
            name = name.removesuffix("[ARGS]").strip()
            said = self._calls(f'{{"name": {json.dumps(name)}, "arguments": {brace}{rest}}}')
            if said is None:
                return None
            calls += said
        return tuple(calls)

    def _calls(self, text: str) -> tuple[Call, ...] | None:
        """Each call in a text that is nothing but calls; None where anything else is in it."""
        found: list[dict[str, Any]] = []
        text, at = text.strip(), 0
        while at < len(text):  # by its place: to cut off what was read would take the square of its length
            try:
                value, at = _decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                return None
            found += value if isinstance(value, list) else [value]
            while text[at : at + 1] in _BETWEEN:
                at += 1
        said = [_said(value) for value in found]
        if not all(call is not None and call[0] in self._tools for call in said):
            return None
        most = 1 - self.calls if self._single else len(said)
        return tuple(self._numbered(*call) for call in said[:most] if call is not None)

    def _numbered(self, name: str, arguments: str) -> Call:
        self.calls += 1
        # Mistral's templates raise an exception at ids that are not nine letters and digits.
        ident = hashlib.blake2b(f"{self._ident}/{self.calls}".encode()).hexdigest()[:9]
        return Call(ident, name, arguments)


def _said(value: object) -> tuple[str, str] | None:
    """The name and the arguments in what a model wrote for a call."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    name = value.get("name")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def _joined(told: list[Parts]) -> Parts:
    calls = tuple(call for parts in told for call in parts.calls)
    return Parts("".join(parts.content for parts in told), "".join(parts.thought for parts in told), calls)


def _behind_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks is not None else at


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)


def _certain(text: str) -> int:
    """How much of a text is content, whatever follows: blanks before a call are no part of it either."""
    size = len(text) - max(_overlap(text, _CALL), _overlap(text, _MISTRAL))
    return len(text[:size].rstrip())


def opens_thought(model: Model) -> bool:
    """Whether its template begins the answer's thought itself, so that the answer shows only where it ends."""
    template = model.facts.get("template")
    if not template or "add_generation_prompt" not in template:
        return False
    opened = template.rpartition("add_generation_prompt")[2]
    return _OPEN in opened and _CLOSE not in opened
