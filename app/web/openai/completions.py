"""POST /v1/completions: texts to go on with. Several prompts are several jobs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from flask import Response, g, jsonify

from app.errors import InvalidRequestError
from app.events import Ended, Token, Usage
from app.models import Job
from app.web import sse
from app.web.current import Site, here
from app.web.errors import translating
from app.web.held import abandon, events_of, gathered, opened
from app.web.openai import shapes, stream
from app.web.openai.answers import TextCompletion, blueprint
from app.web.openai.schemas import CompletionBody
from app.web.schemas import GenerateBody
from app.web.stream import Events
from app.web.submit import submit_generation

completions = blueprint("completions")


@completions.post("/v1/completions", summary="Go on with a text, as OpenAI's API does", responses={200: TextCompletion})
def create_completion(body: CompletionBody) -> Response:
    """Whole or streamed. `X-Job-Id` has the job of each prompt."""
    site = here()
    site.kernel.bus.ping()
    with translating():
        requests = body.translated()
    if body.stream and len(requests) > 1:
        raise InvalidRequestError("One prompt is streamed at a time; send several requests.", param="prompt")
    jobs = _submitted(site, requests)
    g.job_id = ", ".join(job.id for job in jobs)
    followed = [events_of(site, job) for job in jobs]
    if body.stream:
        return sse.closing(_chunks(jobs[0], body, opened(followed[0], jobs[0].timeout)), followed[0])
    with _leaving_none(site, jobs):
        answers = [gathered(events, job.timeout) for job, events in zip(jobs, followed, strict=True)]
    return jsonify(_whole(jobs, body, answers))


def _submitted(site: Site, requests: Sequence[GenerateBody]) -> list[Job]:
    jobs: list[Job] = []
    with _leaving_none(site, jobs):
        for request in requests:
            job = submit_generation(site.kernel, request, held=not request.detach)
            jobs.append(job)
    return jobs


@contextmanager
def _leaving_none(site: Site, jobs: list[Job]) -> Iterator[None]:
    """Where one of several prompts fails the request, nobody hears the others: they end as if their client hung up."""
    try:
        yield
    except BaseException:
        for job in jobs:
            if job.held:
                abandon(site, job.id)
        raise


def _head(job: Job) -> dict[str, Any]:
    return {
        "id": f"cmpl-{job.id}",
        "object": "text_completion",
        "created": int(job.created_at),
        "model": job.model,
        "system_fingerprint": None,
    }


def _whole(jobs: list[Job], body: CompletionBody, answers: list[tuple[list[Token], Ended]]) -> dict[str, Any]:
    several = (
        _choices(job, job.request["prompt"] if body.echo else "", *answer)
        for job, answer in zip(jobs, answers, strict=True)
    )
    choices = [{**choice, "index": index} for index, choice in enumerate(chain.from_iterable(several))]
    counted = [ended.usage for _, ended in answers]
    total = Usage(sum(u.prompt_tokens for u in counted), sum(u.completion_tokens for u in counted))
    return {**_head(jobs[0]), "choices": choices, "usage": shapes.usage(total)}


def whole_of_one(job: Job, tokens: list[Token], ended: Ended) -> dict[str, Any]:
    """A whole answer to one prompt; a batch's lines know no echo."""
    choices = [{**choice, "index": index} for index, choice in enumerate(_choices(job, "", tokens, ended))]
    return {**_head(job), "choices": choices, "usage": shapes.usage(ended.usage)}


def _choices(job: Job, echo: str, tokens: list[Token], ended: Ended) -> Iterator[dict[str, Any]]:
    finishes = {token.choice: token.finish for token in tokens if token.finish}
    for index in range(job.request["n"]):
        own = [token for token in tokens if token.choice == index]
        yield {
            "text": echo + "".join(token.text for token in own),
            "logprobs": shapes.plain_logprobs(own, len(echo)),
            "finish_reason": finishes.get(index, ended.done_reason),
        }


def _chunks(job: Job, body: CompletionBody, events: Events) -> Iterator[str]:
    head = _head(job) | ({"usage": None} if body.include_usage else {})
    frame, finishes = stream.Frame(head), stream.Finishes(job.request["n"])
    if body.echo:
        for index in range(job.request["n"]):
            yield frame.of(_choice(index, job.request["prompt"]))
    for event in events:
        if isinstance(event, Token):
            reason = finishes.of(event)
            yield frame.of(_choice(event.choice, event.text, reason, shapes.plain_logprobs([event])))
        elif isinstance(event, Ended):
            yield from _end(event, job, frame, finishes)
            if body.include_usage and not stream.problem(event, job.timeout):
                yield stream.data(head | {"choices": [], "usage": shapes.usage(event.usage)})
            yield stream.DONE
        else:
            yield sse.HEARTBEAT


def _end(ended: Ended, job: Job, frame: stream.Frame, finishes: stream.Finishes) -> Iterator[str]:
    problem = stream.problem(ended, job.timeout)
    if problem is not None:
        yield problem
        return
    for index, reason in finishes.rest(ended):
        yield frame.of(_choice(index, "", reason))


def _choice(index: int, text: str, reason: str | None = None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
