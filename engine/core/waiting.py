"""The queue of requests that were never started: arrival order within a tenant, turns between tenants."""

from __future__ import annotations

from collections import OrderedDict

from engine.core.state import RequestState


class WaitingQueue:
    """First in, first out for each tenant; `pop` goes round the tenants that have something waiting."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[int, RequestState]] = OrderedDict()  # the next tenant first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, state: RequestState) -> None:
        self._tenants.setdefault(state.request.tenant, OrderedDict())[state.id] = state
        self._size += 1

    def peek(self) -> RequestState:
        """The one whose turn it is; the queue must not be empty."""
        queue = next(iter(self._tenants.values()))
        return next(iter(queue.values()))

    def pop(self) -> RequestState:
        """Take what `peek` shows; its tenant goes to the end of the round."""
        state = self.peek()
        self._tenants.move_to_end(state.request.tenant)
        self.remove(state)
        return state

    def remove(self, state: RequestState) -> None:
        """Take out one that waits, wherever it stands."""
        tenant = state.request.tenant
        queue = self._tenants[tenant]
        del queue[state.id]
        if not queue:
            del self._tenants[tenant]
        self._size -= 1
