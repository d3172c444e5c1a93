"""What a child that reads strangers' files does first: it bounds itself."""

import contextlib
import resource


def confine(memory: int, cpu: int) -> None:
    """Address space in bytes, and seconds of CPU. No core is dumped either."""
    for kind, bound in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower bound is set already
            resource.setrlimit(kind, (bound, bound))
