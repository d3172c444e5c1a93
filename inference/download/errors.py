"""What can go wrong with a download: one error, whose code tells the reason and whose message the remedy.

The hub's side: model_not_found, gated_model, bad_token, revision_not_found, file_not_found, hub_unreachable,
redirect_refused. The model's: no_weights, pickle_weights, unsupported_model, backend_missing, bad_model,
checksum_mismatch, conversion_failed. Ours: disk_full, cache_unwritable, download_failed.
"""

import errno
from collections.abc import Mapping
from http import HTTPStatus

import httpx2
import urllib3
from huggingface_hub import get_token
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
)

from inference.download.order import Order, credentials


class DownloadError(Exception):
    """The model cannot be had; `message` says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RefusedError(Exception):
    """The hub answered no. `reason` is its own code in X-Error-Code, `said` its X-Error-Message."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.reason = headers.get("X-Error-Code", "")
        self.said = headers.get("X-Error-Message", "")
        self.retry_after = headers.get("Retry-After", "")
        super().__init__(f"HTTP {status} {self.said}".strip())


def refusal_of(error: BaseException | None) -> RefusedError | None:
    """The hub's no in an error, whichever client heard it."""
    if isinstance(error, HfHubHTTPError):
        return RefusedError(error.response.status_code, error.response.headers)
    return error if isinstance(error, RefusedError) else None


def refused_redirect(endpoint: str, target: str) -> DownloadError:
    """The hub sends us to a host that we do not follow it to."""
    return DownloadError(
        "redirect_refused",
        f"{endpoint} sends the download on to {target}, which is not one of its own. "
        "If you trust that host, name it in HF_REDIRECT_HOSTS.",
    )


def explain(error: BaseException, order: Order) -> DownloadError:
    """What to tell the user about any failure."""
    if isinstance(error, DownloadError):
        return error
    if (refusal := refusal_of(error)) is not None:
        return _refusal(refusal, order)
    if isinstance(error, HFValidationError):
        return _not_found(order)
    if isinstance(error, httpx2.TransportError | urllib3.exceptions.HTTPError | FileMetadataError | ConnectionError):
        return _unreachable(error, order)
    if isinstance(error, OSError):
        return _local(error, order)
    return DownloadError(
        "download_failed",
        f"The download broke off ({type(error).__name__}). GET /jobs/{{id}}?traceback=true tells where.",
    )


def _refusal(error: RefusedError, order: Order) -> DownloadError:
    repo, page, tokens = order.repo_id, f"{order.endpoint}/{order.repo_id}", f"{order.endpoint}/settings/tokens"
    if error.reason == "GatedRepo":
        return DownloadError(
            "gated_model",
            f"'{repo}' is gated. Accept its terms at {page}, make a read token at {tokens}, set HF_TOKEN to it "
            "(in .env), restart, and pull again.",
        )
    if error.status == HTTPStatus.UNAUTHORIZED and credentials():
        return DownloadError("bad_token", f"{order.endpoint} does not know the name and password in HF_ENDPOINT.")
    if error.reason == "RevisionNotFound":
        return DownloadError("revision_not_found", f"'{repo}' has no revision '{order.revision}'. {page} lists them.")
    if error.status == HTTPStatus.UNAUTHORIZED and get_token():
        return DownloadError("bad_token", f"The hub does not know HF_TOKEN. Make a read token at {tokens}.")
    if error.reason == "RepoNotFound" or error.status == HTTPStatus.UNAUTHORIZED:
        return _not_found(order)
    if error.reason == "EntryNotFound" or error.status == HTTPStatus.NOT_FOUND:
        return DownloadError("file_not_found", f"A file of '{repo}' is gone from the hub. Pull again.")
    if error.status == HTTPStatus.FORBIDDEN:
        said = f" It says: {error.said}" if error.said else ""
        return DownloadError(
            "gated_model", f"The hub does not let this HF_TOKEN read '{repo}'. See {page} and {tokens}.{said}"
        )
    return _unreachable(error, order)


def _not_found(order: Order) -> DownloadError:
    return DownloadError(
        "model_not_found",
        f"{order.endpoint} has no model '{order.repo_id}' that you may see. Check the spelling (owner/name); "
        "for a private model set HF_TOKEN.",
    )


def _unreachable(error: BaseException, order: Order) -> DownloadError:
    reason = error if isinstance(error, RefusedError) else type(error).__name__
    return DownloadError(
        "hub_unreachable",
        f"{order.endpoint} does not serve '{order.repo_id}' ({reason}). Check the network, HTTPS_PROXY and "
        "HF_ENDPOINT, and that HF_HUB_OFFLINE is not set; then pull again: what came so far is kept.",
    )


def _local(error: OSError, order: Order) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError("disk_full", f"The disk of {order.cache} is full. {MAKE_ROOM}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DownloadError(
            "cache_unwritable",
            f"{order.cache} cannot be written to. Give it to the puller's user, or set HF_HOME elsewhere.",
        )
    return DownloadError("download_failed", f"The download broke off: {error.strerror or type(error).__name__}.")


MAKE_ROOM = "Make room (DELETE /models/{name} removes a model), or set HF_HOME to a larger disk."
