"""Safetensors on transformers: what vLLM cannot take, and machines without it.

The loop is ours, not `generate`'s: one pass of the model a step, in the thread that reads `steps`. So a cancel takes
effect at the next token, an answer goes on from any of its tokens, and what goes wrong reaches whoever waits (behind
`generate` an exception leaves its streamer's reader waiting for ever). See docs/decisions.

With more than one slot, requests share their passes, those that answer and those whose prompts are taken in (see
`transformersgroup`). An architecture that cannot do that, by a trial at load, has one slot.
"""

import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import torch

from inference import memory, transformersmemory
from inference.detok import Vocabulary, end_ids
from inference.errors import EngineDiedError, LoadError
from inference.preparer import Preparer
from inference.prompts import Prompter, load_template, load_tokenizer
from inference.protocol import Chunk, Failure, Info, OnProgress, Request, Spec
from inference.sampler import NoNumbersError, likeliest
from inference.slots import WaitingRoom
from inference.text import Piece
from inference.transformersanswer import Answer, Network, Row
from inference.transformersgroup import Group, computes_in_groups
from inference.transformersload import Loaded, is_out_of_memory, load_model
from inference.transformersmemory import PROBE, Growth

log = structlog.get_logger()


class TransformersEngine:
    """One model. Its passes run in `steps`, and nowhere else."""

    def __init__(self, spec: Spec, on_progress: OnProgress) -> None:
        loaded = load_model(spec, on_progress)
        folder = Path(str(spec.path))
        tokenizer = load_tokenizer(folder)
        self._network = _network(loaded, tokenizer)
        growth = _try_out(self._network)
        slots = spec.slots if spec.slots > 1 and computes_in_groups(self._network) else 1
        memory.give_back()
        left = transformersmemory.left(spec, loaded.device, loaded.on_device)
        plan = transformersmemory.plan(_own_context(loaded.model), spec.context, growth, left, slots)
        self._prompter = Prompter(tokenizer, load_template(folder, tokenizer), plan.context)
        self._room: WaitingRoom[Answer] = WaitingRoom(slots, plan.total)
        self._answers: dict[str, Answer] = {}
        self._ended: list[Chunk] = []  # of answers that ended before they had a slot
        self._groups: list[Group[Answer]] = []
        self._total = plan.total
        self._changed = threading.Condition()
        self._closed = False
        self._preparer = Preparer(self._prepare, self._refuse)
        on_progress(1.0)
        self.info = Info(
            spec.engine,
            os.getpid(),
            slots,
            plan.context,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            quantization=loaded.quantization,
            weights_bytes=int(loaded.model.get_memory_footprint()),
            cache_bytes=plan.total * growth.token + slots * growth.fixed,
            cache_tokens=plan.total,
        )

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineDiedError when closed."""
        with self._changed:
            if self._closed:
                raise EngineDiedError("The engine is closed.")
            answer = self._answers[request.id] = Answer(request)
            self._preparer.take(answer)

    def abort(self, request_id: str) -> None:
        """End a request; the pass that it is in, if any, comes to nothing."""
        with self._changed:
            answer = self._answers.get(request_id)
            if answer is not None:
                answer.aborted = True
                self._forget(answer)

    def close(self) -> None:
        """End `steps`, after the pass that runs."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._preparer.close()

    def steps(self) -> Iterator[list[Chunk]]:
        """Each round's chunks, until closed. Raises EngineDiedError when the device is lost."""
        while self._wait():
            step = self._admit()
            self._shed()
            self._regroup()
            for group in self._turn():
                step += self._pass(group)
            self._shed()
            if step:
                yield step

    def _wait(self) -> bool:
        """Wait for work. False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or not self._room.is_empty)
            return not self._closed

    def _prepare(self, answer: Answer) -> None:
        """Render and tokenise, then queue for a slot, or end what has all its tokens."""
        answer.begin(self._prompter.prompt(answer.request), self._network)
        with self._changed:
            if answer.is_full:
                self._end_early(answer, answer.end(Piece(), "length"))
            elif not answer.over:
                self._room.enter(answer, priority=answer.request.priority, cost=answer.cost)
                self._changed.notify()

    def _refuse(self, answer: Answer, failure: Failure) -> None:
        with self._changed:
            self._end_early(answer, answer.fail(failure))

    def _end_early(self, answer: Answer, chunk: Chunk) -> None:
        """Under the lock."""
        if not answer.over:
            self._forget(answer)
            self._ended.append(chunk)
            self._changed.notify()

    def _admit(self) -> list[Chunk]:
        """Begin what has a slot now; the chunks of what ended without one."""
        with self._changed:
            admitted = self._room.admit()
            ended, self._ended = self._ended, []
        self._groups += [Group(self._network, answer) for answer in admitted]
        return ended

    def _regroup(self) -> None:
        """Let those go on together that can, within the memory that all of them may take."""
        for group in list(self._groups):
            earlier = self._groups[: self._groups.index(group)]
            host = next((other for other in earlier if self._may_host(other, group)), None)
            if host is not None:
                self._groups.remove(group)
                self._join(host, group)

    def _may_host(self, host: Group[Answer], group: Group[Answer]) -> bool:
        if not host.may_join(group):
            return False
        others = sum(other.cost() for other in self._groups if other is not host and other is not group)
        return others + host.cost(group) <= self._total

    def _turn(self) -> list[Group[Answer]]:
        """All that answer, and one of those with prompts: so an answer waits for one such pass, however many came."""
        answering = [group for group in self._groups if group.is_settled]
        waiting = [group for group in self._groups if not group.is_settled]
        self._groups = answering + waiting[1:] + waiting[:1]
        return answering + waiting[:1]

    def _pass(self, group: Group[Answer]) -> list[Chunk]:
        """One pass for the rows of a group; the tokens that came of it."""
        try:
            scores = group.advance()
            best = likeliest(scores)
        except torch.AcceleratorError as error:
            self.close()  # after an error of its own, a GPU computes nothing more for this process
            raise EngineDiedError(f"The GPU failed: {error}") from error
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises
            return self._break_up(group, error)
        rows = zip(group.rows, scores, best, strict=True)
        drawn = [self._draw(answer, row, token) for answer, row, token in rows if not answer.pending]
        return [chunk for chunk in drawn if chunk is not None]

    def _draw(self, answer: Answer, scores: torch.Tensor, best: int) -> Chunk | None:
        try:
            chunk = answer.draw(scores, best)
        except Exception as error:  # noqa: BLE001 - a fault in one answer's sampling or text ends no other
            return self._last(answer, _failure(error, answer))
        with self._changed:
            if chunk is not None and chunk.finish is not None:
                self._forget(answer)
            return None if answer.aborted else chunk

    def _break_up(self, group: Group[Answer], error: Exception) -> list[Chunk]:
        """A pass has failed. One request fails with it; of several nobody knows which, so each tries again alone."""
        self._groups.remove(group)
        if len(group.rows) == 1:
            chunk = self._last(group.rows[0], _failure(error, group.rows[0]))
            return [] if chunk is None else [chunk]
        log.warning("transformers.group_broken_up", rows=len(group.rows), reason=repr(error))
        self._groups += [self._alone(answer) for answer in group.rows]
        return []

    def _alone(self, answer: Answer) -> Group[Answer]:
        answer.alone, answer.taken = True, 0
        return Group(self._network, answer)

    def _shed(self) -> None:
        """Let go of what is over: before a pass, and after it, as nothing else may come for long."""
        for group in self._groups:
            group.shed()
        self._groups = [group for group in self._groups if group.rows]

    def _join(self, host: Group[Answer], group: Group[Answer]) -> None:
        try:
            host.join(group)
        except Exception as error:  # noqa: BLE001 - most likely there is no memory for the copy
            log.warning("transformers.not_joined", reason=repr(error))
            self._groups.remove(host)
            self._groups += [self._alone(answer) for answer in [*host.rows, *group.rows]]

    def _last(self, answer: Answer, failure: Failure) -> Chunk | None:
        with self._changed:
            self._forget(answer)
        return None if answer.aborted else answer.fail(failure)

    def _forget(self, answer: Answer) -> None:
        """Give back its slot or place; its row goes when the round is over. Under the lock."""
        answer.over = True
        if self._answers.get(answer.request.id) is answer:  # not a later one, of the same job
            del self._answers[answer.request.id]
        self._room.leave(answer)


def _network(loaded: Loaded, tokenizer: Any) -> Network:
    model = loaded.model
    config = model.config.get_text_config(decoder=True)
    ends = end_ids(model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": 1} if keeps else {}
    return Network(model, loaded.device, keep, frozenset(ends), Vocabulary(tokenizer, ends))


def _try_out(network: Network) -> Growth:
    """Two passes over a few tokens, to see that it computes, and what its cache takes. Raises LoadError."""
    row = Row()
    group = Group(network, row)
    sizes = []
    try:
        for _ in range(2):
            row.ids += range(PROBE)
            group.advance()
            sizes.append(group.size)
    except Exception as error:
        if is_out_of_memory(error):
            raise LoadError(
                "out_of_memory", "The weights fit, but nothing is left to compute with. Unload other models."
            ) from None
        log.exception("transformers.cannot_compute")
        raise LoadError(
            "unsupported_model",
            "transformers loads this model, but cannot compute with it here; the worker's log says why. With "
            'quantized weights, try it as it is ("quantize": "no").',
        ) from None
    if not sizes[1]:
        raise LoadError(
            "unsupported_model", "This architecture keeps its state in a way of its own, which the engine cannot hold."
        )
    return transformersmemory.measure(sizes)


def _own_context(model: Any) -> int | None:
    found = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _failure(error: Exception, answer: Answer) -> Failure:
    if is_out_of_memory(error):
        memory.give_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Failure(
            Failure.OUT_OF_MEMORY,
            f"Memory ran out over this request ({answer.cost} tokens, prompt and answer). Shorten the messages, lower "
            "max_tokens, unload other models, or load this one in 4 bits or with a smaller context.",
        )
    if isinstance(error, NoNumbersError):
        return Failure(
            Failure.ENGINE_FAILED,
            "The model's scores are not numbers: this precision is too small for it, or its weights are damaged. "
            'Load it as it is ("quantize": "no") or in float32 ("fp32"), or pull it again.',
        )
    log.error("transformers.request_failed", request=answer.request.id, exc_info=error)
    return Failure(Failure.ENGINE_FAILED, "transformers failed over this request; the worker's log says why.")
