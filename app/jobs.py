"""Jobs: their kinds and states, and the names of queues and tasks.

This is the one place for each of these words.
"""

import os
import time
from enum import StrEnum


class Kind(StrEnum):
    """What a job does."""

    PULL = "pull"  #: downloads a model
    GENERATE = "generate"  #: answers a chat
    EMBED = "embed"  #: turns texts into vectors


class State(StrEnum):
    """Where a job stands. From `running` it goes back to `queued` where it was lost or handed back.

    The last four are terminal: a job enters one of them once and stays.
    """

    QUEUED = "queued"  #: accepted; waits for a slot
    RUNNING = "running"  #: claimed by a worker's life
    SUCCEEDED = "succeeded"  #: ended with its whole result
    FAILED = "failed"  #: ended with an error that the row keeps
    CANCELLED = "cancelled"  #: ended because somebody asked
    TIMED_OUT = "timed_out"  #: ended by its deadline


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT})

#: 0 is the most urgent, as in the broker. Batch lines use BATCH_PRIORITY and below.
PRIORITIES = range(10)
DEFAULT_PRIORITY = 5
BATCH_PRIORITY = 7
#: How many losses of its worker a job may have before the next death makes it `poisoned`.
MAX_LOSSES = 2

GENERATE_TASK = "tokenyard.generate"
PULL_TASK = "tokenyard.pull"
SWEEP_TASK = "tokenyard.sweep"
PRUNE_TASK = "tokenyard.prune"
SCAN_TASK = "tokenyard.scan"

PULL_QUEUE = "pulls"
MAINTENANCE_QUEUE = "maintenance"


def model_queue(model: str) -> str:
    """The queue that the holders of a model consume."""
    return f"model.{model}"


def pull_queue(node: str | None) -> str:
    """The queue of the pulls that a node's own puller must carry out; None: any puller may."""
    return f"{PULL_QUEUE}.{node}" if node else PULL_QUEUE


def queue_of(kind: str, model: str, node: str | None = None) -> str:
    """The queue that a job of this kind and model waits in. `node`: where a pull must bring its files."""
    return pull_queue(node) if kind == Kind.PULL else model_queue(model)


def task_of(kind: str) -> str:
    """The task that runs a job of this kind."""
    return PULL_TASK if kind == Kind.PULL else GENERATE_TASK


def new_id() -> str:
    """A job's id: 32 hex digits that sort by the time of their making (RFC 9562's version 7, method 3)."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return f"{milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | tail:032x}"
