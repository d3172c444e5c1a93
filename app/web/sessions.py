"""Sessions: conversations that the server remembers. A chat's `session_id` begins one, and goes on with it."""

from flask import Response, jsonify

from app.web.access import identity
from app.web.answers import blueprint
from app.web.current import here
from app.web.schemas import IdPath
from app.web.stock_answers import SessionAnswer, SessionRemovedAnswer
from app.web.views import iso

sessions = blueprint("sessions", "sessions", "Conversations that the server remembers.")


@sessions.get("/sessions/<id>", summary="Show a session", responses={200: SessionAnswer})
def show_session(path: IdPath) -> Response:
    """What was said so far. It is forgotten at `expires_at`, unless it is used before."""
    kept = here().kernel.sessions
    row = kept.get(path.id, identity().tenant)
    return jsonify(
        {
            "session_id": row.id,
            "messages": row.history["messages"],
            "created_at": iso(row.created_at),
            "expires_at": iso(kept.expires_at(row)),
        }
    )


@sessions.delete("/sessions/<id>", summary="Forget a session", responses={200: SessionRemovedAnswer})
def remove_session(path: IdPath) -> Response:
    """Jobs of it that still run go on, and are not remembered."""
    here().kernel.sessions.remove(path.id, identity().tenant)
    return jsonify({"status": "removed", "session_id": path.id})
