"""The one tree of errors. Each class has a stable `code`; app/web/errors.py gives each code its HTTP status.

TokenyardError
├── BadSettingsError        bad_settings
├── InvalidRequestError     invalid_request
├── NotFoundError           not_found
│   ├── JobNotFoundError    job_not_found
│   ├── ModelNotFoundError  model_not_found
│   ├── AliasNotFoundError  alias_not_found
│   ├── KeyNotFoundError    key_not_found
│   └── SessionNotFoundError session_not_found
├── ModelNotDownloadedError model_not_downloaded
├── ModelInUseError         model_in_use
├── NotDeletedError         not_deleted
├── AliasTakenError         alias_taken
├── ModelExistsError        model_exists
├── BadModelError           damaged_model | not_a_model | unreadable | disk_full
├── ModelCooldownError      model_cooldown
├── IdempotencyConflictError  idempotency_conflict
├── QueueFullError          queue_full
├── FilesFullError          files_full
├── TooManyRequestsError    rate_limit_exceeded
├── SlowConsumerError       slow_consumer
├── SlowRequestError        slow_request
├── NotAllowedError         unauthorized | forbidden | forbidden_… | bad_csrf
│   └── KeyEndedError       unauthorized
├── UnavailableError        broker_unavailable | database_unavailable
└── JobFailedError          what ended a job: its code is the error that the row keeps
"""

from dataclasses import dataclass
from typing import ClassVar


class TokenyardError(Exception):
    """Something that a user or an operator can mend; the message says how."""

    code: ClassVar[str] = "internal"
    #: Seconds after which trying again makes sense, where that is known.
    retry_after: int | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadSettingsError(TokenyardError):
    """The environment or `.env` holds a value that cannot be used."""

    code = "bad_settings"


class InvalidRequestError(TokenyardError):
    """The request breaks a rule that its message names."""

    code = "invalid_request"


class NotFoundError(TokenyardError):
    """There is nothing at this address."""

    code = "not_found"


class JobNotFoundError(NotFoundError):
    """No job has this id, or it belongs to somebody else."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"No job has the id '{job_id}'. GET /jobs lists the jobs there are.", param="id")


class ModelNotFoundError(NotFoundError):
    """No model has this name."""

    code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"No model is named '{name}'. GET /models lists the models there are.", param="model")


class AliasNotFoundError(NotFoundError):
    """No alias has this name."""

    code = "alias_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"No alias is named '{name}'. GET /aliases lists the aliases there are.", param="name")


class SessionNotFoundError(NotFoundError):
    """No session has this id, or it has expired."""

    code = "session_not_found"

    def __init__(self, ident: str) -> None:
        super().__init__(
            f"No session has the id '{ident}', or it has expired. A chat with this session_id begins one.", param="id"
        )


class ModelNotDownloadedError(TokenyardError):
    """A generation names a model that is not on this machine."""

    code = "model_not_downloaded"

    def __init__(self, name: str, *, gone: bool = False) -> None:
        lack = f"The files of model '{name}' are gone" if gone else f"Model '{name}' is not downloaded"
        again = "Pull it again" if gone else "Pull it first"
        super().__init__(f'{lack}. {again}: POST /pull {{"model": "{name}"}}', param="model")


class ModelInUseError(TokenyardError):
    """A model has work, so it is not removed."""

    code = "model_in_use"

    def __init__(self, name: str, jobs: int) -> None:
        super().__init__(
            f"Model '{name}' is in use: {jobs} open jobs. Wait for them or cancel them, or remove it with ?force=true.",
            param="model",
        )


class NotDeletedError(TokenyardError):
    """Files of a model that was removed are still there."""

    code = "not_deleted"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"Model '{name}' is off the list, and some of its files could not be deleted: {reason}. Remove it again "
            "once that is mended; the keeper tries too, when it starts.",
            param="model",
        )


class AliasTakenError(TokenyardError):
    """A model has the name that an alias was to have."""

    code = "alias_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' is the name of a model here. Take another name for the alias.", param="name")


class ModelExistsError(TokenyardError):
    """Another model has the name that one was to have."""

    code = "model_exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A model '{name}' is here already, from other files. Remove it first: DELETE /models/{name}, or take "
            "another name.",
            param="name",
        )


class BadModelError(TokenyardError):
    """A path holds no model that can be used; `code` says which kind of reason it is."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, param="path")
        self.code = code  # type: ignore[misc]  # each instance carries its own


class ModelCooldownError(TokenyardError):
    """No engine could load the model a moment ago, on any worker; until the cooldown is over nobody tries again."""

    code = "model_cooldown"

    def __init__(self, name: str, reason: str, retry_after: int) -> None:
        super().__init__(
            f"Model '{name}' could not be loaded, and is not tried again for {retry_after} s: {reason} "
            f"To try at once: POST /models/{name}/reload",
            param="model",
        )
        self.retry_after = retry_after


class IdempotencyConflictError(TokenyardError):
    """An Idempotency-Key came again with another request."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key '{key}' was sent before with another request. Take a new key for a new request.",
            param="Idempotency-Key",
        )


class QueueFullError(TokenyardError):
    """As many jobs wait as may."""

    code = "queue_full"
    retry_after = 5


class FilesFullError(TokenyardError):
    """A tenant's files take as many bytes as they may."""

    code = "files_full"

    def __init__(self, kept: int, quota: int) -> None:
        super().__init__(
            f"The files of this key may take {quota:,} bytes together, and {kept:,} are taken. Delete some that are no "
            "longer needed: DELETE /v1/files/{id}. GET /v1/files lists them.",
            param="file",
        )


class TooManyRequestsError(TokenyardError):
    """A key asks more often than it may."""

    code = "rate_limit_exceeded"

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(f"This key may send {limit} requests a minute. Try again in {retry_after} s.")
        self.limit = limit
        self.retry_after = retry_after


class SlowConsumerError(TokenyardError):
    """A follower does not read what it asked for."""

    code = "slow_consumer"

    def __init__(self) -> None:
        super().__init__(
            "You read too slowly, so this stream ends here. The job goes on: follow it again from the last id you got."
        )


class SlowRequestError(TokenyardError):
    """A request whose bytes come so slowly that its client is as good as gone."""

    code = "slow_request"

    def __init__(self) -> None:
        super().__init__("The request came too slowly. Send it again, over a better line or in smaller parts.")


class NotAllowedError(TokenyardError):
    """The caller may not do this; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # each instance carries its own


class KeyEndedError(NotAllowedError):
    """The key, or the login, under which something began is over."""

    def __init__(self) -> None:
        super().__init__(
            "unauthorized", "The key, or the login, under which this began was ended or has expired. Its jobs go on."
        )


class UnavailableError(TokenyardError):
    """A part that Tokenyard stands on does not answer, or has `answered` that it is full. Later it may be well."""

    def __init__(self, code: str, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # each instance carries its own
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as its row and its last event keep it."""

    code: str
    message: str


class JobFailedError(TokenyardError):
    """A job ended badly. Raised by tasks, so that Celery and Flower show a failure too."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.code = failure.code  # type: ignore[misc]  # the row's own code
        self.failure = failure
