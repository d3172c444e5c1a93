"""Nodes: the hosts of a stack, and emptying one so that it can be stopped."""

from flask import Response, jsonify
from pydantic import Field

from app.web.access import Access, needs
from app.web.answers import blueprint
from app.web.current import here
from app.web.fleet_answers import DrainAnswer, NodesAnswer
from app.web.schemas import NamePath, OptionalBody
from app.web.views import iso

nodes = needs(Access.OPERATORS)(blueprint("nodes", "workers", "What runs where."))


class DrainBody(OptionalBody):
    """How to empty a node."""

    force: bool = Field(False, description="Running jobs go back to the queue, and on elsewhere.")


@nodes.get("/nodes", summary="List nodes", responses={200: NodesAnswer})
def list_nodes() -> Response:
    """Every host that has workers or pullers, and how far those are that are being emptied."""
    kernel = here().kernel
    kernel.registry.forget()
    cards = kernel.registry.workers()
    return jsonify(
        {
            "nodes": [
                {
                    "node": node.name,
                    "draining_since": iso(node.since),
                    "workers": [card.node for card in cards if card.host == node.name],
                    "models": sum(len(card.holdings) + len(card.loading) for card in cards if card.host == node.name),
                    "running": node.running,
                }
                for node in kernel.drains.nodes()
            ]
        }
    )


@nodes.post("/nodes/<name>/drain", summary="Drain a node", responses={202: DrainAnswer})
def drain_node(path: NamePath, body: DrainBody) -> tuple[Response, int]:
    """From now on it gets no model, no job and no pull; its models leave when their running jobs have finished."""
    kernel = here().kernel
    kernel.drains.begin(path.name)
    kernel.registry.forget()
    kernel.orders.empty(node=path.name, force=body.force)
    return jsonify({"node": path.name, "status": "draining"}), 202


@nodes.delete("/nodes/<name>/drain", summary="Give a node work again", responses={200: DrainAnswer})
def resume_node(path: NamePath) -> Response:
    """Undoes a drain."""
    ended = here().kernel.drains.end(path.name)
    return jsonify({"node": path.name, "status": "resumed" if ended else "nothing to do"})
