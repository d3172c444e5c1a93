"""Answers about files and batches, as the API's description shows them."""

from typing import Literal

from app.batches import Stage
from app.web.answers import Answer


class FileAnswer(Answer):
    """An upload, or an output of a batch."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class DeletedAnswer(Answer):
    """It was forgotten."""

    id: str
    object: Literal["file", "response.deleted"]
    deleted: Literal[True]


class PageAnswer(Answer):
    """What all pages have."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FilesAnswer(PageAnswer):
    """A page of files."""

    data: list[FileAnswer]


class BatchFault(Answer):
    """What is wrong with a file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(Answer):
    """All that is wrong with it."""

    object: Literal["list"]
    data: list[BatchFault]


class RequestCounts(Answer):
    """How a batch's lines stand."""

    total: int
    completed: int
    failed: int


class BatchAnswer(Answer):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchFaults | None
    input_file_id: str
    completion_window: str
    status: Stage
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchesAnswer(PageAnswer):
    """A page of batches."""

    data: list[BatchAnswer]
