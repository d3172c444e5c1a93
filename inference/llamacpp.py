"""GGUF models on llama.cpp, in its own batching server, by way of xllamacpp.

llama.cpp applies the model's template and tokenises (over its server's loopback HTTP, with a random key); generation
goes through callbacks, which are cheaper than HTTP. We keep three things to ourselves: stop strings (`Seam`), who runs
(`WaitingRoom`), and the size of what runs: with a unified KV cache, llama.cpp fails *every* running request when the
cache runs full, so each one reserves all that it may need before it starts.

Callbacks give text and exact counts but no token ids (the HTTP stream has ids, yet only the last one of a character
made of several), so a continuation goes on from the emitted text. The stream never ends in half a character.
"""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import structlog

from inference import schema
from inference.errors import EngineDiedError, LoadError, RefusedError, check_prompt
from inference.llamaserver import (
    TIMEOUT,
    Plan,
    free_memory,
    load_server,
    note_on_gpu,
    plan,
)
from inference.llamaslots import Slots
from inference.llamavectors import Vectors
from inference.preparer import Preparer
from inference.protocol import Chunk, Failure, Finish, Info, Likely, Logprob, OnProgress, Request, Spec
from inference.slots import WaitingRoom
from inference.text import Piece, Seam
from inference.tools import MARKS

log = structlog.get_logger()

#: The threads of one llama.cpp step come one after another: waiting this long for the last, in seconds, makes one
#: message of them. It delays no token after it, as llama.cpp computes meanwhile.
LINGER = 0.002
#: What llama.cpp takes for "any": the one seed of 32 bits that is none.
NO_SEED = (1 << 32) - 1


class _Answer:
    """A request on its way through llama.cpp."""

    def __init__(self, request: Request, out: "SimpleQueue[Chunk | None]") -> None:
        self.request = request
        self.prompt: list[int] = []  #: token ids, those emitted included
        self.prompt_tokens = 0
        self.over = False  #: nobody waits for it any more
        self._out = out
        self._generated = 0
        self._seam = Seam(request.sampling.stop)

    def take(self, data: dict[str, Any]) -> bool:
        """llama.cpp's callback: one token or a few. True ends the request there."""
        if self.over:
            return True
        if "error" in data:
            self.fail(Failure(Failure.ENGINE_FAILED, f"llama.cpp could not go on: {data['error'].get('message')}"))
            return True
        choice = data["choices"][0]
        total = data["timings"]["predicted_n"]
        likely = _likely(choice.get("logprobs"), self.request.sampling.logprobs)
        piece = self._seam.feed(choice["text"], (), total - self._generated, likely)
        self._generated = total
        if self._seam.stopped:
            self.end(piece, "stop")
        elif reason := choice["finish_reason"]:
            self.end(piece + self._seam.flush(), "length" if reason == "length" else "stop")
        elif piece.count:
            self._out.put(piece.chunk(self.request.id, self.prompt_tokens))
        return self.over

    def end(self, piece: Piece, finish: Finish) -> None:
        """The last chunk."""
        self.over = True
        self._out.put(piece.chunk(self.request.id, self.prompt_tokens, finish))

    def fail(self, failure: Failure) -> None:
        """The last chunk, unless there was one, or nobody wants it."""
        if not self.over:
            self.over = True
            self._out.put(Chunk(self.request.id, prompt_tokens=self.prompt_tokens, error=failure))


class LlamaCppEngine:
    """One GGUF model. A request is prepared (one at a time, in order), waits for a slot, runs on a thread."""

    def __init__(self, spec: Spec, on_progress: OnProgress) -> None:
        if spec.path is None:
            raise LoadError("bad_model", "The llama.cpp engine needs the path of a GGUF file.")
        self._plan: Plan = plan(spec, free_memory(spec))
        self._stuck = False
        self._server, self._loopback = load_server(spec, self._plan, self._give_up)
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._room: WaitingRoom[_Answer] = WaitingRoom(spec.slots, self._plan.total)
        self._slots = Slots(spec.slots)
        self._out: SimpleQueue[Chunk | None] = SimpleQueue()
        self._preparer = Preparer(self._prepare, self._refuse)
        self._runners = ThreadPoolExecutor(spec.slots, "run")
        self._closed = False
        self._vectors = Vectors(spec)
        on_progress(1.0)
        self.info = Info(
            spec.engine,
            os.getpid(),
            spec.slots,
            self._plan.context,
            weights_bytes=self._plan.weights,
            cache_bytes=self._plan.cache,
            cache_tokens=self._plan.total,
            note=note_on_gpu(spec),
        )

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineDiedError when closed."""
        with self._lock:
            if self._closed:
                raise EngineDiedError("The engine is closed.")
            answer = self._answers[request.id] = _Answer(request, self._out)
            self._preparer.take(answer)

    def abort(self, request_id: str) -> None:
        """End a request that runs at its next token, or after a step or two of its prompt: then llama.cpp asks us."""
        with self._lock:
            answer = self._answers.get(request_id)
            if answer is None:
                return
            answer.over = True
            if not self._room.is_running(answer):
                self._forget(answer)

    def steps(self) -> Iterator[list[Chunk]]:
        """All chunks that there are, whenever there are any. Raises EngineDiedError when llama.cpp is stuck."""
        chunk = self._out.get()
        while chunk is not None:
            step = [chunk]
            if len(self._answers) > 1:
                time.sleep(LINGER)
            while not self._out.empty() and (chunk := self._out.get()) is not None:
                step.append(chunk)
            yield step
            if chunk is not None:
                chunk = self._out.get()
        if self._stuck:
            raise EngineDiedError(
                f"The model's chat template was not done with some messages after {TIMEOUT:g} s, and only the end of "
                "the process ends it. Use another build of the model."
            )

    def _give_up(self) -> None:
        self._stuck = True
        self._out.put(None)

    def close(self) -> None:
        """End all requests, then llama.cpp."""
        with self._lock:
            self._closed = True
            for answer in self._answers.values():
                answer.over = True
        self._out.put(None)
        self._preparer.close()
        self._runners.shutdown(cancel_futures=True)
        self._server = None

    def _prepare(self, answer: _Answer) -> None:
        """Render and tokenise, then queue for a slot, or end what has all its tokens."""
        request, cost = answer.request, 1
        if not request.embed:
            self._render(answer)
            budget = self._budget(answer)
            if budget <= 0:
                answer.end(Piece(), "length")
            cost = len(answer.prompt) + budget
        with self._lock:
            if answer.over:
                self._forget(answer)
            else:
                self._room.enter(answer, priority=request.priority, cost=cost)
                self._admit()

    def _refuse(self, answer: _Answer, failure: Failure) -> None:
        answer.fail(failure)
        with self._lock:
            self._forget(answer)

    def _render(self, answer: _Answer) -> None:
        """Fill in the prompt's tokens. Raises RefusedError."""
        request = answer.request
        text = self._loopback.render(request) if request.prompt is None else request.prompt
        answer.prompt = self._loopback.tokenize(text)
        answer.prompt_tokens = len(answer.prompt)
        check_prompt(answer.prompt_tokens, self._context(answer))
        if request.emitted.text:
            answer.prompt = self._loopback.tokenize(text + request.emitted.text)

    def _budget(self, answer: _Answer) -> int:
        """How many tokens it may yet get, by its own limit and by the context's."""
        return min(answer.request.remaining, self._context(answer) - len(answer.prompt))

    def _context(self, answer: _Answer) -> int:
        """What the model has, or less where the request says so."""
        return min(self._plan.context, answer.request.context or self._plan.context)

    def _admit(self) -> None:
        for answer in self._room.admit():
            self._runners.submit(self._run, answer)

    def _run(self, answer: _Answer) -> None:
        try:
            if answer.request.embed:
                self._embed(answer)
            else:
                self._complete(answer)
        except Exception:
            log.exception("llamacpp.request_failed", request=answer.request.id)
        failure = Failure(Failure.ENGINE_FAILED, "llama.cpp ended without a reason; the worker's log may have one.")
        answer.fail(failure)
        with self._lock:
            self._forget(answer)

    def _complete(self, answer: _Answer) -> None:
        salt, prompt = answer.request.salt, answer.prompt
        with self._lock:
            slot, own = self._slots.take(salt, prompt)
        placed = {"id_slot": slot} if own else {"id_slot": slot, "cache_prompt": False}
        try:
            self._server.handle_completions(self._body(answer) | placed, answer.take)
        finally:
            with self._lock:
                self._slots.leave(slot, salt, prompt)

    def _embed(self, answer: _Answer) -> None:
        try:
            text, read = self._vectors.of(answer.request.prompt or "")
            answer.end(Piece(text, (), read), "stop")
        except RefusedError as error:
            answer.fail(error.failure)

    def _forget(self, answer: _Answer) -> None:
        """Give back its slot or place; whoever is next starts."""
        if self._answers.get(answer.request.id) is answer:  # not a later one, of the same job
            del self._answers[answer.request.id]
        self._room.leave(answer)
        if not self._closed:
            self._admit()

    def _body(self, answer: _Answer) -> dict[str, Any]:
        """The request in llama.cpp's words; what we leave unsaid would be its defaults, and they are not ours."""
        sampling = answer.request.sampling
        return {
            "prompt": answer.prompt,
            "max_tokens": self._budget(answer),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "repeat_last_n": self._plan.context,  # penalties see all that came before, as they do elsewhere
            "seed": -1 if sampling.seed is None else sampling.seed % NO_SEED,
            "ignore_eos": sampling.ignore_eos,
            # Without a likelier token to tell, the drawn one's probability is still wanted.
            "logprobs": None if sampling.logprobs is None else max(1, sampling.logprobs),
            "logit_bias": [list(entry) for entry in sampling.logit_bias],
            "grammar": "" if sampling.schema is None else schema.grammar(sampling.schema),
            # Special tokens by which some models call tools and think; others have no text here.
            "preserved_tokens": list(MARKS),
            "stream": True,
            "return_progress": True,  # an empty text after each step of the prompt, so that an abort need not wait
            "timings_per_token": True,
        }


def _likely(said: dict[str, Any] | None, count: int | None) -> tuple[Logprob, ...]:
    """llama.cpp's words for the probabilities of a piece: of a character of several tokens, those of the last."""
    if count is None or not said:
        return ()
    return tuple(
        Logprob(
            entry["id"],
            entry["token"],
            entry["logprob"],
            tuple(Likely(other["id"], other["token"], other["logprob"]) for other in entry["top_logprobs"][:count]),
        )
        for entry in said["content"]
    )
