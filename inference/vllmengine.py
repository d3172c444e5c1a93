"""Safetensors on vLLM: continuous batching, in a process that vLLM forks from this one.

vLLM takes token ids and gives token ids. Three things are ours: prompts, text (`detok`), and the end of an answer at a
stop string. Its own loop runs on a thread; what it says of each request in one step leaves as one list of chunks.

vLLM's presence and frequency penalties do not count tokens of the prompt, and a grammar begins with the answer: under
either, an answer cannot go on from emitted tokens, and its owner never asks for that. For what a death of vLLM's
process looks like, see `lastwords`.
"""

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from itertools import count
from queue import SimpleQueue
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest

from inference import vllmload
from inference.errors import EngineDiedError
from inference.preparer import Preparer
from inference.prompts import Prompter, load_template, load_tokenizer
from inference.protocol import Chunk, Failure, Info, OnProgress, Request, Spec
from inference.text import Piece
from inference.vllmanswer import Answer, Words, is_refusal, trial
from inference.vlloptions import adapters_of

log = structlog.get_logger()

#: How often vLLM is asked whether it is still there, in seconds: it does not say so by itself when nobody waits.
WATCH = 0.5
#: How often vLLM's own metrics are told to the owner, in seconds.
TELL = 5.0


class _Own(CollectorRegistry):
    """What vLLM counts and measures of itself, without what is so of any process."""

    def collect(self) -> Iterator[Metric]:
        """Its families."""
        return (family for family in REGISTRY.collect() if family.name.startswith("vllm:"))


class VllmEngine:
    """One model. Requests are prepared one at a time, in order; vLLM decides who runs."""

    def __init__(self, spec: Spec, on_progress: OnProgress) -> None:
        loaded = vllmload.load(spec, on_progress)
        folder = loaded.source.folder
        tokenizer = load_tokenizer(folder)
        self._engine = loaded.engine
        self._heard = loaded.words
        size = int(self._engine.model_config.get_vocab_size())
        self._words = Words.of(loaded.source, tokenizer, size, adapters_of(spec))
        self._prompter = Prompter(tokenizer, load_template(folder, tokenizer), loaded.context)
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}
        self._numbers = count()
        self._step: list[Chunk] = []
        self._out: SimpleQueue[list[Chunk] | EngineDiedError | None] = SimpleQueue()
        self._closed = False
        self._preparer = Preparer(self._prepare, self._refuse)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, name="vllm", daemon=True).start()
        self._try_out(loaded)
        on_progress(1.0)
        self.info = Info(
            spec.engine,
            os.getpid(),
            spec.slots,
            loaded.context,
            dtype=str(self._engine.model_config.dtype).removeprefix("torch."),
            quantization=loaded.quantization,
            weights_bytes=loaded.room.weights,
            cache_bytes=loaded.cache_bytes,
            cache_tokens=loaded.cache_tokens,
        )

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineDiedError when closed."""
        with self._lock:
            if self._closed:
                raise EngineDiedError("The engine is closed.")
            answer = self._answers[request.id] = Answer(request, str(next(self._numbers)), self._words)
            self._preparer.take(answer)

    def abort(self, request_id: str) -> None:
        """End a request, wherever it is."""
        with self._lock:
            answer = self._answers.pop(request_id, None)
            if answer is not None and not self._closed:
                answer.over = True
                self._loop.call_soon_threadsafe(self._withdraw, answer)

    def steps(self) -> Iterator[list[Chunk]]:
        """Each step's chunks, until closed. Raises EngineDiedError when vLLM's process is gone."""
        while (said := self._out.get()) is not None:
            if isinstance(said, EngineDiedError):
                raise said
            yield said

    def close(self) -> None:
        """End `steps`, then vLLM."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        self._preparer.close()
        self._engine.shutdown(timeout=0)
        self._heard.close()
        self._out.put(None)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _try_out(self, loaded: vllmload.Loaded) -> None:
        """Two tokens, to see that it computes: some models are loaded, and end vLLM with their first step."""
        try:
            asyncio.run_coroutine_threadsafe(trial(self._engine, self._words), self._loop).result()
        except Exception as error:
            log.exception("vllm.cannot_compute")
            raise vllmload.reason(error, loaded.source, loaded.room, loaded.words.reason()) from None

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._spawn(self._watch())
        self._loop.run_forever()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something on the loop, which alone would forget it half way."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        told = time.monotonic()
        while not self._engine.errored:
            await asyncio.sleep(WATCH)
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                self._out.put([Chunk("", generate_latest(_Own()).decode())])
        self._die()

    def _die(self) -> None:
        with self._lock:
            if self._closed:
                return
        said = self._heard.reason()
        why = f" ({said[:300]})" if said else ""
        self._out.put(
            EngineDiedError(
                f"vLLM's process ended while it computed{why}. The worker's log has its own words. On a GPU, look for "
                "Xid errors (dmesg), heat and ECC errors (nvidia-smi -q), and other programs on the same device; if "
                "memory ran out, load fewer models, 4-bit weights or a smaller context."
            )
        )

    def _prepare(self, answer: Answer) -> None:
        """Render and tokenise, on a thread of its own; then over to the loop, unless that already ended it."""
        answer.begin(self._prompter.prompt(answer.request))
        if answer.budget <= 0:
            self._end_early(answer, Piece().chunk(answer.request.id, answer.prompt_tokens, "length"))
        else:
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._start(answer)))

    def _refuse(self, answer: Answer, failure: Failure) -> None:
        self._end_early(answer, answer.fail(failure))

    def _end_early(self, answer: Answer, chunk: Chunk) -> None:
        if not answer.over:
            self._forget(answer)
            self._out.put([chunk])

    async def _start(self, answer: Answer) -> None:
        """Hand it to vLLM, and have what it says of it come here directly: no task for each request's each token."""
        if answer.over:
            return
        try:
            collector = await self._engine.add_request(
                answer.number,
                answer.given(),
                answer.params(),
                lora_request=answer.adapter(),
                priority=answer.request.priority,
            )
        except Exception as error:
            if is_refusal(error):
                self._tell(answer, answer.fail(Failure(Failure.INVALID_REQUEST, f"vLLM refuses this request: {error}")))
            elif not self._engine.errored:  # else the watch says so, for all
                log.exception("vllm.request_failed", request=answer.request.id)
                self._tell(answer, answer.fail(Failure(Failure.ENGINE_FAILED, f"vLLM failed over it: {error!r}")))
            return
        collector.put = lambda output: self._take(answer, output)
        if (early := collector.output) is not None:
            self._take(answer, early)
        if answer.over:  # aborted meanwhile, or stopped by its first tokens
            self._withdraw(answer)

    def _take(self, answer: Answer, output: Any) -> None:
        """What vLLM says of one request in one step. It is on the loop, and must not wait."""
        if isinstance(output, Exception):
            if self._engine.errored:
                self._die()
            return
        if answer.over:
            return
        chunk = answer.take(output)
        if chunk is not None:
            self._tell(answer, chunk)
        if answer.over and not output.finished:
            self._withdraw(answer)

    def _tell(self, answer: Answer, chunk: Chunk) -> None:
        """Into this step's list, which leaves when the loop has been through the step."""
        if chunk.finish or chunk.error:
            answer.over = True
            self._forget(answer)
        if not self._step:
            self._loop.call_soon(self._flush)
        self._step.append(chunk)

    def _flush(self) -> None:
        step, self._step = self._step, []
        self._out.put(step)

    def _withdraw(self, answer: Answer) -> None:
        self._spawn(self._abort(answer))

    async def _abort(self, answer: Answer) -> None:
        if not self._engine.errored:
            await self._engine.abort(answer.number)

    def _forget(self, answer: Answer) -> None:
        with self._lock:
            if self._answers.get(answer.request.id) is answer:  # not a later one, of the same job
                del self._answers[answer.request.id]
