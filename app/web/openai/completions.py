"""POST /v1/completions: texts to go on with. Several prompts are several jobs."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Response, g, jsonify

from app.errors import KeyEndedError
from app.events import Ended, Event, Token, Usage
from app.models import Job
from app.web import sse
from app.web.current import Site, here
from app.web.errors import translating
from app.web.held import abandon, events_of, gathered, opened
from app.web.openai import shapes, stream
from app.web.openai.answers import TextCompletion, blueprint
from app.web.openai.schemas import CompletionBody
from app.web.stream import Events
from app.web.submit import submit_generations
from app.web.views import split

completions = blueprint("completions")

Answer = tuple[list[Token], Ended]
#: Events, each with the number of its prompt.
Told = Generator[tuple[int, Event | None], None, None]


@completions.post("/v1/completions", summary="Go on with a text, as OpenAI's API does", responses={200: TextCompletion})
def create_completion(body: CompletionBody) -> Response:
    """Whole or streamed. `X-Job-Id` has the job of each prompt."""
    site = here()
    site.kernel.bus.ping()
    with translating():
        requests = body.translated()
    jobs = submit_generations(site.kernel, requests, held=not requests[0].detach)
    g.job_id = ", ".join(job.id for job in jobs)
    followed = [events_of(site, job) for job in jobs]
    with _leaving_none(site, jobs):
        if body.stream:
            followed[0] = opened(followed[0], jobs[0].timeout)
            told = _in_turn(site, jobs, followed)
            return sse.closing(_chunks(jobs, body, told), told)
        answers = [gathered(events, job.timeout) for job, events in zip(jobs, followed, strict=True)]
    return jsonify(_whole(jobs, answers, echo=bool(body.echo)))


@contextmanager
def _leaving_none(site: Site, jobs: list[Job]) -> Iterator[None]:
    """Where one of several prompts fails the request, nobody hears the others: they end as if their client hung up."""
    try:
        yield
    except KeyEndedError:
        raise  # they are the tenant's
    except BaseException:
        for job in jobs:
            if job.held:
                abandon(site, job.id)
        raise


def _head(job: Job) -> dict[str, Any]:
    return shapes.head(job, "cmpl", "text_completion")


def _whole(jobs: list[Job], answers: list[Answer], *, echo: bool) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    for job, (tokens, ended) in zip(jobs, answers, strict=True):
        said = job.request["prompt"] if echo else ""
        for _, own, reason in split(job, tokens, ended.done_reason):
            text = said + "".join(token.text for token in own)
            choices.append(_choice(len(choices), text, reason, shapes.plain_logprobs(own)))
    return {**_head(jobs[0]), "choices": choices, "usage": shapes.usage(_total([ended.usage for _, ended in answers]))}


def whole_of_one(job: Job, tokens: list[Token], ended: Ended) -> dict[str, Any]:
    """A whole answer to one prompt; a batch's lines know no echo."""
    return _whole([job], [(tokens, ended)], echo=False)


def _in_turn(site: Site, jobs: list[Job], followed: list[Events]) -> Told:
    """Each prompt's events behind those of the one before; what it says meanwhile is kept for it."""
    waiting = [job for job in jobs if job.held]
    try:
        for index, events in enumerate(followed):
            waiting = waiting[1:]  # whoever is followed is seen to
            yield from ((index, event) for event in events)
    except KeyEndedError:
        waiting = []
        raise
    finally:
        for events in followed:
            events.close()
        for job in waiting:
            abandon(site, job.id)


def _chunks(jobs: list[Job], body: CompletionBody, told: Told) -> Iterator[str]:
    head = _head(jobs[0]) | ({"usage": None} if body.include_usage else {})
    frame, n = stream.Frame(head), jobs[0].request["n"]
    finishes = [stream.Finishes(n) for _ in jobs]
    counted: list[Usage] = []
    said = [0] * (n * len(jobs))  # characters of each choice
    for choice in range(n * len(jobs) if body.echo else 0):
        yield frame.of(_choice(choice, jobs[choice // n].request["prompt"]))
    for index, event in told:
        if isinstance(event, Token):
            choice, reason = index * n + event.choice, finishes[index].of(event)
            yield frame.of(_choice(choice, event.text, reason, shapes.plain_logprobs([event], said[choice])))
            said[choice] += len(event.text)
        elif isinstance(event, Ended):
            if problem := stream.problem(event, jobs[index].timeout):
                yield problem + stream.DONE
                return
            rest = finishes[index].rest(event)
            yield "".join(frame.of(_choice(index * n + choice, "", reason)) for choice, reason in rest)
            counted.append(event.usage)
        else:
            yield sse.HEARTBEAT
    if body.include_usage:
        yield sse.frame(head | {"choices": [], "usage": shapes.usage(_total(counted))})
    yield stream.DONE


def _total(counted: list[Usage]) -> Usage:
    return Usage(sum(usage.prompt_tokens for usage in counted), sum(usage.completion_tokens for usage in counted))


def _choice(index: int, text: str, reason: str | None = None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
