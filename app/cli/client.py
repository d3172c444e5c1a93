"""The API as the command's verbs use it: one place that knows the address, the key, and what an answer means."""

import json
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn
from urllib.parse import quote

import httpx

from app.errors import TokenyardError
from app.settings import Settings

#: How the command ends; docs/cli.md tells them to users.
FAILED, UNREACHABLE, NOT_FOUND, NOT_ALLOWED, LATER = 1, 3, 4, 5, 6
_EXITS = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 429: LATER, 503: LATER}
#: Where a model is a request's field, its absence is the request's fault.
_ABSENT = frozenset({"model_not_found", "model_not_downloaded"})
_STRANGER = "What answered ({}) does not speak Tokenyard's API; is TOKENYARD_URL right?"
#: Seconds for which a broken stream is taken up again without an event, and between two attempts.
PATIENCE, PAUSE = 60.0, 0.5


class CommandError(TokenyardError):
    """What the command was asked for did not come about."""

    code = "command_failed"

    def __init__(self, message: str, *, exit_code: int = FAILED, reason: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        #: The server's code for it.
        self.reason = reason


class Event(NamedTuple):
    """One event of a stream. `seq` is 0 for what is not numbered."""

    seq: int
    data: dict[str, Any]


class Client:
    """A connection to one server, for one verb."""

    def __init__(self, settings: Settings) -> None:
        key = settings.tokenyard_api_key or settings.api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self.url = settings.address
        # A proxy of the environment has no business between this command and its own machine.
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=60, trust_env=bool(settings.tokenyard_url)
            )
        except httpx.InvalidURL as error:
            raise CommandError(f"TOKENYARD_URL={self.url} is no address ({error}).", exit_code=UNREACHABLE) from None

    def get(self, path: str, **params: Any) -> Any:
        """An answer's JSON. Raises CommandError."""
        return self._ask("GET", path, params={key: value for key, value in params.items() if value is not None})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Sends an object. Raises CommandError."""
        return self._ask("POST", path, json=body or {})

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """Sends an object. Raises CommandError."""
        return self._ask("PUT", path, json=body)

    def delete(self, path: str, **params: Any) -> Any:
        """Removes. Raises CommandError."""
        return self._ask("DELETE", path, params=params)

    def upload(self, path: str, name: str, file: BinaryIO, **fields: str) -> Any:
        """Sends a file as a form. Raises CommandError."""
        return self._ask("POST", path, files={"file": (name, file)}, data=fields, timeout=600)

    def download(self, path: str) -> Iterator[bytes]:
        """A file's bytes. Raises CommandError."""
        try:
            with self._http.stream("GET", path) as answer:
                _check(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            self._unreachable(error)

    def follow(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """A job's events to its end, through any number of lost connections. Raises CommandError."""
        heard, lost = time.monotonic(), None
        while lost is None or time.monotonic() - heard < PATIENCE:
            try:
                for event in self._events(job_id, after):
                    heard = time.monotonic()
                    if event is not None:
                        after = event.seq or after
                        yield event
                        if event.data.get("done"):
                            return
            except (httpx.TransportError, CommandError) as error:
                if isinstance(error, CommandError) and error.exit_code != LATER:
                    raise
                lost = error
            time.sleep(PAUSE)
        self._unreachable(lost)

    def _events(self, job_id: str, after: int) -> Iterator[Event | None]:
        """What comes over one connection; None is a sign of life."""
        # The server sends a heartbeat at least every few seconds; without one the connection is dead.
        with self._http.stream("GET", f"/jobs/{job_id}/stream", params={"after": after}, timeout=30) as answer:
            _check(answer)
            seq = 0
            for line in answer.iter_lines():
                if line.startswith("id:"):
                    seq = int(line[3:])
                elif line.startswith("data:"):
                    yield Event(seq, json.loads(line[5:]))
                    seq = 0
                else:
                    yield None

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        try:
            answer = self._http.request(method, quote(path, safe="/:@"), **how)  # a user's words may be in it
        except httpx.TransportError as error:
            self._unreachable(error)
        _check(answer)
        try:
            return answer.json()
        except ValueError:
            raise CommandError(_STRANGER.format(answer.status_code)) from None

    def _unreachable(self, error: Exception) -> NoReturn:
        raise CommandError(
            f"{self.url} does not answer ({type(error).__name__}). Start the stack with `tokenyard start`, or set "
            "TOKENYARD_URL to where it runs. `tokenyard doctor` tells more.",
            exit_code=UNREACHABLE,
        ) from error


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        error = answer.json()["error"]
        message, reason = str(error["message"]), str(error.get("code") or "")
    except (ValueError, KeyError, TypeError):
        message, reason = _STRANGER.format(answer.status_code), ""
    if answer.status_code == 401:
        sent = "Authorization" in answer.request.headers
        message = "This API key is wrong, revoked or expired." if sent else "The server wants an API key."
        message += " Set TOKENYARD_API_KEY (or API_KEY) to one that works."
    code = NOT_FOUND if reason in _ABSENT else _EXITS.get(answer.status_code, FAILED)
    raise CommandError(message, exit_code=code, reason=reason)
