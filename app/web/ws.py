"""GET /ws: one WebSocket that carries many generations. docs/websocket.md describes its frames."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from flask import Flask, g, request
from flask_sock import Sock
from pydantic import Field, TypeAdapter, ValidationError
from simple_websocket import ConnectionClosed

from app.errors import InvalidRequestError, NotAllowedError, NotFoundError, UnavailableError
from app.jobs import State
from app.web.access import gate, identity
from app.web.bodies import MAX_BODY, decode_object
from app.web.connection import Socket
from app.web.current import Site, here
from app.web.errors import explain, known, request_id
from app.web.schemas import MAX_SEQ, ChatBody, Seq, Strict
from app.web.submit import submit_generation

#: Seconds between pings; a client that misses one is gone.
PING = 25

#: Seconds in which a socket that came with neither key nor cookie says who it is.
PATIENCE = 5.0
#: Seconds between looks at the key of a socket that says nothing.
LOOK = 2.0
#: A close's code for who may not be here (RFC 6455, 7.4.1).
POLICY = 1008

#: They come back on every frame, so they are short.
MAX_REF = 256
MAX_ID = 64

Ref = Annotated[str, Field(max_length=MAX_REF)] | Annotated[int, Field(ge=-MAX_SEQ, le=MAX_SEQ)] | None
JobId = Annotated[str, Field(max_length=MAX_ID)]


class Auth(Strict):
    """Who is there: for clients that can send no header, as browsers' WebSocket cannot."""

    type: Literal["auth"]
    ref: Ref = None
    key: Annotated[str, Field(max_length=1000)]


class Generate(ChatBody):
    """Submit a chat, as a detached job, and follow it."""

    type: Literal["generate"]
    ref: Ref = None


class Follow(Strict):
    """Follow a job from an event on."""

    type: Literal["follow"]
    ref: Ref = None
    job_id: JobId
    after: Seq = 0


class Cancel(Strict):
    """End a job."""

    type: Literal["cancel"]
    ref: Ref = None
    job_id: JobId


class Ping(Strict):
    """Are you there?"""

    type: Literal["ping"]
    ref: Ref = None


Frame = Auth | Generate | Follow | Cancel | Ping
FRAMES: dict[str, type[Frame]] = {
    "auth": Auth,
    "generate": Generate,
    "follow": Follow,
    "cancel": Cancel,
    "ping": Ping,
}


_ref: TypeAdapter[str | int | None] = TypeAdapter(Ref)


def register(app: Flask) -> None:
    """Serves /ws."""
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": PING, "max_message_size": MAX_BODY}
    sock = Sock(app)
    app.before_request(_plainly)

    @sock.route("/ws")  # type: ignore[untyped-decorator]  # flask-sock has no types
    def serve(connection: Any) -> None:
        site = here()
        socket = Socket(site, connection)
        try:
            while True:
                raw = connection.receive(LOOK if "identity" in g else PATIENCE)
                if raw is not None:
                    _receive(site, socket, raw)
                elif "identity" in g:
                    _look(socket)
                if "identity" not in g:
                    break
            socket.close()
            connection.close(POLICY, "No key came in time, or it does not hold.")
        except ConnectionClosed:
            return
        finally:
            socket.close()


def _plainly() -> None:
    """Nothing is compressed on a socket: a small frame could become a huge one, and tokens are too short to gain."""
    if request.path == "/ws":
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


def _receive(site: Site, socket: Socket, raw: str | bytes) -> None:
    fields: dict[str, Any] = {}
    try:
        fields = decode_object(raw, "A frame")
        _act(site, socket, _parse(fields))
    except ConnectionClosed:
        raise
    except Exception as error:  # noqa: BLE001 - one frame's fault must not end the other jobs of the socket
        told, job_id = known(error, "frame_failed", request_id=request_id()), fields.get("job_id")
        ident = job_id if isinstance(job_id, str) and len(job_id) <= MAX_ID else None
        socket.fail(_ref_of(fields), ident, told.code, told.message, told.param)
        if "identity" in g:  # who sends nothing but faults is never silent, and would else never be looked at
            _look(socket)


def _look(socket: Socket) -> None:
    try:
        with suppress(UnavailableError):
            gate().renew()
    except NotAllowedError as error:
        socket.fail(None, None, error.code, error.message)


def _ref_of(fields: dict[str, Any]) -> str | int | None:
    """The frame's own `ref`, where it is one that may come back."""
    try:
        return _ref.validate_python(fields.get("ref"))
    except ValidationError:
        return None


def _parse(fields: dict[str, Any]) -> Frame:
    frame = FRAMES.get(str(fields.get("type")))
    if frame is None:
        raise InvalidRequestError(f"type must be one of {', '.join(FRAMES)}", param="type")
    try:
        return frame.model_validate(fields)
    except ValidationError as error:
        raise explain(error) from error


def _act(site: Site, socket: Socket, frame: Frame) -> None:
    if isinstance(frame, Auth):
        socket.check_idle()
        who = gate().take_key(frame.key)
        socket.send("authenticated", frame.ref, None, name=who.tenant, role=who.role)
        return
    gate().renew()
    if isinstance(frame, Generate):
        socket.reserve()
        gate().spend(identity())
        job = submit_generation(site.kernel, frame, held=False)
        socket.send("accepted", frame.ref, job.id, model=job.model)
        socket.follow(frame.ref, job.id, 0, job.timeout)
    elif isinstance(frame, Follow):
        socket.reserve()
        try:
            job = site.kernel.store.get(frame.job_id, identity().scope).job
        except NotFoundError as error:
            error.param = "job_id"
            raise
        socket.send("accepted", frame.ref, job.id, model=job.model)
        socket.follow(frame.ref, job.id, frame.after, job.timeout)
    elif isinstance(frame, Cancel):
        site.kernel.store.get(frame.job_id, identity().scope)
        site.kernel.dispatcher.end(frame.job_id, State.CANCELLED)
        socket.send("accepted", frame.ref, frame.job_id)
    else:
        socket.send("pong", frame.ref, None)
