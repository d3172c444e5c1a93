"""`python -m tasks`: the Celery process of this ROLE, which is a worker of Celery's or its beat.

`celery -A tasks worker -n … -Q … -P threads` would run the same one, but Celery's command first loads every command
that is installed, Flower and its web server among them: 16 MB, and a part of the start for which the jobs of a model
wait whose only worker died.
"""

import sys

from app import unused

unused.hide()

from app.jobs import MAINTENANCE_QUEUE, PULL_QUEUE  # noqa: E402
from app.settings import load  # noqa: E402
from tasks import app  # noqa: E402

QUEUES = {"puller": PULL_QUEUE, "keeper": MAINTENANCE_QUEUE}


def main() -> None:
    """Runs it to its end, which is a signal."""
    settings = load()
    if settings.role == "beat":
        app.Beat(scheduler="celery.beat:Scheduler", pidfile="", quiet=True).run()
        return
    if settings.role not in ("worker", *QUEUES):
        sys.exit("ROLE says which process this is to be: worker, puller, keeper or beat.")
    name = settings.device if settings.role == "worker" else settings.role
    worker = app.Worker(
        hostname=f"{name}@{settings.node}",
        queues=[QUEUES.get(settings.role, name)],
        pool_cls="threads",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()
