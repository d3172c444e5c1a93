"""The waiting room: what may run now, and who is next."""

import heapq
from collections.abc import Hashable
from itertools import count
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item", bound=Hashable)


class _Turn(NamedTuple, Generic[Item]):
    priority: int
    arrival: int
    cost: int
    item: Item


class WaitingRoom(Generic[Item]):
    """Admits by (priority, arrival) while there is a slot, and room for the cost of the one whose turn it is.

    Nobody overtakes that one by being smaller, or a long request would wait for ever. `capacity` and cost share a unit
    of the caller's choice (llama.cpp: tokens of KV cache). Not locked: its owner is.
    """

    def __init__(self, slots: int, capacity: int | None = None) -> None:
        self._slots = slots
        self._capacity = capacity
        self._used = 0
        self._running: dict[Item, int] = {}
        self._waiting: list[_Turn[Item]] = []
        self._arrivals = count()

    def enter(self, item: Item, *, priority: int, cost: int = 0) -> None:
        """Take a place in the queue."""
        heapq.heappush(self._waiting, _Turn(priority, next(self._arrivals), cost, item))

    def admit(self) -> list[Item]:
        """Everything that may start now; each holds its slot until it leaves."""
        admitted: list[Item] = []
        while self._waiting and self._fits(self._waiting[0].cost):
            turn = heapq.heappop(self._waiting)
            self._running[turn.item] = turn.cost
            self._used += turn.cost
            admitted.append(turn.item)
        return admitted

    def leave(self, item: Item) -> None:
        """Give back a slot, or a place in the queue. Leaving twice is no fault."""
        if item in self._running:
            self._used -= self._running.pop(item)
            return
        self._waiting = [turn for turn in self._waiting if turn.item != item]
        heapq.heapify(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether nobody runs or waits."""
        return not self._running and not self._waiting

    def is_running(self, item: Item) -> bool:
        """Whether it holds a slot."""
        return item in self._running

    def _fits(self, cost: int) -> bool:
        if len(self._running) >= self._slots:
            return False
        return self._capacity is None or not self._running or self._used + cost <= self._capacity
