"""Builds the kernel of one process: everything that web, worker, puller and keeper share."""

from collections.abc import Callable
from typing import Any

from celery import Celery

from app.aliases import Aliases
from app.apikeys import ApiKeys
from app.batches import Batches
from app.broker import connect
from app.bus import Bus
from app.catalog import Catalog
from app.clock import Clock
from app.cooldown import Cooldowns
from app.database import Database
from app.dispatch import Dispatcher
from app.drains import Drains
from app.estimates import Estimates
from app.files import Files
from app.limits import Limits
from app.lives import Lives
from app.loads import Loads
from app.logins import Logins
from app.orders import Orders
from app.rates import Rates
from app.registry import Registry
from app.retention import Retention
from app.scans import Scans
from app.sessions import Sessions
from app.settings import Settings
from app.store import Store


class Kernel:
    """What a process was built from. Nothing in it is global."""

    def __init__(
        self, settings: Settings, celery: Celery | None = None, front: Callable[[Any], Any] = lambda target: target
    ) -> None:
        """Opens the database and the broker; neither is asked yet. `front`: put before what asks the database."""
        self.settings = settings
        self.clock = clock = Clock()
        self.database = database = Database(settings.database_url)
        self.store: Store = front(Store(database, clock))
        self.batches: Batches = front(Batches(database, clock))
        self.files: Files = front(Files(database, settings.data_dir / "files"))
        self.lives = Lives(database, clock)
        self.catalog: Catalog = front(
            Catalog(database, scripted=settings.enable_scripted_engine, node=settings.store_node)
        )
        self.aliases: Aliases = front(Aliases(database))
        self.sessions: Sessions = front(
            Sessions(database, ttl=settings.session_ttl, turns=settings.session_turns, clock=clock)
        )
        self.api_keys: ApiKeys = front(ApiKeys(database, clock))
        self.drains: Drains = front(Drains(database, clock))
        self.retention = Retention(database, clock, days=settings.retention_days, jobs=settings.retention_jobs)
        client, celery = connect(settings.redis_url), celery or sender()
        self.logins = Logins(client)
        self.rates = Rates(client)
        self.bus = Bus(client, stream_ttl=settings.stream_ttl_seconds, clock=clock)
        self.registry = Registry(client, lease=settings.lease_seconds)
        cooldowns = Cooldowns(client, settings.model_load_cooldown)
        self.loads = Loads(self.registry, cooldowns, self.catalog, self.drains, celery)
        self.orders = Orders(self.registry, self.loads, self.drains)
        self.dispatcher = Dispatcher(self.store, self.bus, self.registry, self.loads, celery, clock)
        self.estimates = Estimates(self.store, self.registry)
        self.limits = Limits(self.store, held=settings.max_queue, detached=settings.max_queued_jobs)
        self.scans = Scans(client, celery)

    def close(self) -> None:
        """Gives back every connection."""
        self.bus.redis.close()
        self.database.close()


def sender() -> Celery:
    """A Celery application that only sends: it knows the broker and no task."""
    app = Celery("tokenyard")
    app.config_from_object("celeryconfig")
    return app
