"""Builds the kernel of one process: everything that web, worker, puller and keeper share."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a process was built from. Nothing in it is global."""

    settings: Settings
    clock: Clock
    database: Database
    store: Store
    batches: Batches
    files: Files
    lives: Lives
    catalog: Catalog
    aliases: Aliases
    sessions: Sessions
    api_keys: ApiKeys
    logins: Logins
    rates: Rates
    bus: Bus
    registry: Registry
    drains: Drains
    loads: Loads
    orders: Orders
    dispatcher: Dispatcher
    estimates: Estimates
    limits: Limits
    retention: Retention
    scans: Scans

    def close(self) -> None:
        """Gives back every connection."""
        self.bus.redis.close()
        self.database.close()


def open_kernel(settings: Settings, celery: Celery | None = None) -> Kernel:
    """Opens the database and the broker; neither is asked anything yet."""
    database = Database(settings.database_url)
    clock = Clock()
    store = Store(database, clock)
    client = connect(settings.redis_url)
    bus = Bus(client, stream_ttl=settings.stream_ttl_seconds, clock=clock)
    registry = Registry(client, lease=settings.lease_seconds)
    catalog = Catalog(database, scripted=settings.enable_scripted_engine, node=settings.store_node)
    celery = celery or sender()
    drains = Drains(database, clock)
    loads = Loads(registry, Cooldowns(client, settings.model_load_cooldown), catalog, drains, celery)
    return Kernel(
        settings=settings,
        clock=clock,
        database=database,
        store=store,
        batches=Batches(database, clock),
        files=Files(database, settings.data_dir / "files"),
        lives=Lives(database, store, clock),
        catalog=catalog,
        aliases=Aliases(database),
        sessions=Sessions(database, ttl=settings.session_ttl, turns=settings.session_turns, clock=clock),
        api_keys=ApiKeys(database, clock),
        logins=Logins(client),
        rates=Rates(client),
        bus=bus,
        registry=registry,
        drains=drains,
        loads=loads,
        orders=Orders(registry, loads, drains),
        dispatcher=Dispatcher(store, bus, registry, loads, celery),
        estimates=Estimates(store, registry),
        limits=limits_of(settings, store),
        retention=Retention(database, clock, days=settings.retention_days, jobs=settings.retention_jobs),
        scans=Scans(client, celery),
    )


def limits_of(settings: Settings, store: Store) -> Limits:
    """How many jobs may wait, by this process's own count."""
    return Limits(store, held=settings.max_queue, detached=settings.max_queued_jobs)


def sender() -> Celery:
    """A Celery application that only sends: it knows the broker and no task."""
    app = Celery("tokenyard")
    app.config_from_object("celeryconfig")
    return app
