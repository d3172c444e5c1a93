"""A bay: one loaded model of the garage, and who uses it."""

import threading
import time
from dataclasses import dataclass, field

from app.durations import FOR_EVER
from app.models import Job
from app.registry import Holding
from tasks.pump import Pump


@dataclass(slots=True, eq=False)
class Bay:
    """A loaded model. What changes is changed under the garage's lock."""

    model: str
    pump: Pump
    load_ns: int
    #: Seconds since the epoch.
    loaded_at: float
    #: Bytes of weights and cache, as the engine tells or as they were estimated.
    size: int = 0
    #: What it was loaded from: path, bytes, and the precision that was asked for.
    files: tuple[str, ...] = ()
    #: Why an engine other than the first choice has it.
    why: str = ""
    #: Seconds without work after which it goes; FOR_EVER: it stays until another model needs its place.
    keep_alive: float = FOR_EVER
    #: Somebody asked to keep it for ever: it is the last to make room.
    pinned: bool = False
    #: Jobs that use it, from before they reach the engine until after they left it.
    users: int = 0
    #: By time.monotonic().
    used: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)
    #: Takes no further job.
    leaving: bool = False
    #: Its engine is being ended, by whoever set this.
    ending: bool = False
    #: Its memory is given back.
    closed: threading.Event = field(default_factory=threading.Event)

    def waited_ns(self, created_at: float) -> int:
        """How much of the load a job that was created then has waited for."""
        return max(0, min(self.load_ns, int((self.loaded_at - created_at) * 1e9)))

    def keep(self, seconds: float, *, pinned: bool = True) -> None:
        """Keeps it so long without work; where that is for ever because somebody asked, it is pinned."""
        self.keep_alive = seconds
        self.pinned = pinned and seconds < 0

    def can_continue(self, job: Job) -> bool:
        """Whether its engine goes on with an answer that was begun, and counts what was emitted as its own output.

        A form begins with the answer. vLLM's presence and frequency penalties leave the prompt out, and the emitted
        tokens are part of it then (https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html).
        """
        sampling = job.request["sampling"]
        penalized = sampling.get("presence_penalty") or sampling.get("frequency_penalty")
        return sampling.get("schema") is None and not (penalized and self.pump.engine.info.engine == "vllm")

    def rest(self) -> float | None:
        """Seconds until it goes for want of work; None where it stays."""
        if self.users or self.keep_alive < 0:
            return None
        return self.used + self.keep_alive - time.monotonic()

    def holding(self) -> Holding:
        """What the registry shows of it."""
        info, rest = self.pump.engine.info, self.rest()
        return Holding(
            model=self.model,
            backend=info.engine,
            slots=info.slots,
            running=self.users,
            load_ns=self.load_ns,
            context=info.context,
            why=self.why,
            quantization=info.quantization,
            dtype=info.dtype,
            bytes=self.size,
            keep_alive=self.keep_alive,
            pinned=self.pinned,
            expires_at=None if rest is None else time.time() + rest,
            leaving=self.leaving,
        )
