"""The whole queue, as the database has it: by model and priority, with what waits longest, and why."""

import time
from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify

from app import secrets
from app.cooldown import Cooldown
from app.reads import Lane
from app.registry import Card
from app.web.access import for_operators, identity
from app.web.answers import blueprint
from app.web.current import here
from app.web.job_answers import QueuesAnswer
from app.web.residence import fleet

queues = blueprint("queues", "workers", "What runs where.")


@queues.get("/queues", summary="Show the queue", responses={200: QueuesAnswer})
def show_queues() -> Response:
    """By model and priority: to operators all of it, to others what is their own. The broker, and so Flower, holds only
    the window that was released."""
    kernel, now, scope = here().kernel, time.time(), identity().scope
    lanes = kernel.store.lanes(scope)
    cards, failures = fleet(kernel)
    waits = [now - lane.oldest for lane in lanes if lane.oldest is not None]
    return jsonify(
        {
            "at": now,
            "finished": kernel.store.ended(scope),
            "oldest_wait_seconds": round(max(waits), 3) if waits else None,
            "flower_url": for_operators(secrets.without(kernel.settings.flower_url or "") or None),
            "queues": [_show(lane, now, cards, failures) for lane in lanes],
        }
    )


def _show(lane: Lane, now: float, cards: Sequence[Card], failures: Sequence[Cooldown]) -> dict[str, Any]:
    return {
        "model": lane.model,
        "priority": lane.priority,
        "queued": lane.queued,
        "released": lane.released,
        "running": lane.running,
        "oldest_wait_seconds": None if lane.oldest is None else round(now - lane.oldest, 3),
        "why": _why(lane.model, cards, failures) if lane.queued else None,
    }


def _why(model: str, cards: Sequence[Card], failures: Sequence[Cooldown]) -> str:
    """The first reason that holds."""
    if not cards:
        return "no worker is alive"
    held = [holding for card in cards for holding in card.holdings if holding.model == model]
    if held:
        running, slots = sum(h.running for h in held), sum(h.slots for h in held)
        return f"all {slots} slots are taken" if running >= slots else "it is on its way to a free slot"
    if any(card.awaited(model) for card in cards):
        return "the model is being loaded"
    failed = next((failure for failure in failures if failure.model == model), None)
    return f"it could not be loaded: {failed.message}" if failed else "no worker holds the model yet"
