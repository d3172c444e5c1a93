"""What a worker listens to: the queues of the models that it holds, and no others."""

import time
from typing import Any

import structlog

from app.errors import UnavailableError
from app.jobs import model_queue
from app.sending import tell
from tasks.garage import Garage

log = structlog.get_logger(__name__)

#: Celery consumes a queue so long after it was told to, at most, in seconds.
LISTENING = 10.0


class Ears:
    """Tells this node's Celery what to consume."""

    def __init__(self, celery: Any, node: str) -> None:
        self._celery = celery
        self._node = node

    def consume(self, queue: str) -> None:
        """From now on its messages come here too."""
        self._tell("add_consumer", queue)

    def cease(self, queue: str) -> None:
        """They do no more."""
        self._tell("cancel_consumer", queue)

    def mend(self, garage: Garage) -> None:
        """Consumes what should be consumed, and nothing else: the message that said so may have been lost."""
        consumed = set(self._celery.amqp.queues.consume_from)
        # Looked at second: a model that came in between has its queue from now on.
        wanted = {model_queue(bay.model): bay for bay in garage.bays() if not bay.leaving}
        for queue, bay in wanted.items():
            if time.monotonic() - bay.since > LISTENING and queue not in consumed:
                log.warning("listens_again", model=bay.model)
                self.consume(queue)
        for queue in consumed - wanted.keys():
            if queue.startswith(model_queue("")):
                self.cease(queue)

    def _tell(self, verb: str, queue: str) -> None:
        try:
            tell(self._celery, verb, [self._node], queue=queue)
        except UnavailableError as error:
            # A later renewal sees what is not consumed.
            log.warning("not_told", queue=queue, reason=str(error.__cause__))
