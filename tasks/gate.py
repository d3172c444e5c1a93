"""The gate: many jobs at a time, or one alone."""

import threading


class Gate:
    """Who may run on this worker. A job that may be what kills workers runs where its death hits nobody else."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether a job is alone here, or is about to be."""
        with self._changed:
            return self._closed

    def enter(self) -> bool:
        """Lets a job in among others; it leaves again. False: the gate is closed."""
        with self._changed:
            if not self._closed:
                self._inside += 1
            return not self._closed

    def leave(self) -> None:
        """A job that entered has left."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self) -> bool:
        """Lets nobody in from now on. False: somebody else has closed it."""
        with self._changed:
            mine, self._closed = not self._closed, True
            return mine

    def open(self) -> None:
        """Lets jobs in again; whoever closed it does this."""
        with self._changed:
            self._closed = False

    def wait_empty(self, seconds: float | None = None) -> bool:
        """Waits until all that entered have left; False when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, seconds)
