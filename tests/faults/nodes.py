"""Two nodes on one machine, each with an address of its own, over one PostgreSQL and one Valkey.

Node a (127.0.0.1) has everything; node b (127.0.0.2) a web process, a worker and a puller, a data folder and
roads to the broker and the database of its own, which a test may cut.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa

from tests.faults.proxy import Proxy
from tests.faults.yard import PARTS, Yard
from tests.stack import broker_url, free_port, stores

ADDRESS_OF_B = "127.0.0.2"
NODE_B = ("web.b", "cpu.1", "puller.b")


class Cluster(Yard):
    """What is killed or cut off on node b must be made up for by node a."""

    parts = (*PARTS, "web.b", "puller.b")

    def __init__(self, folder: Path, database_url: str, **settings: str) -> None:
        self._database = urlsplit(database_url)
        self.database_road = Proxy(int(self._database.port or 0), ADDRESS_OF_B)
        self.url_b = f"http://{ADDRESS_OF_B}:{(port := free_port())}"
        self._of_b = {
            **stores(folder / "b"),
            "NODE": "b",
            "HOST": ADDRESS_OF_B,
            "PORT": str(port),
            "DATA_DIR": str(folder / "b"),
            "DATABASE_URL": self._database._replace(
                netloc=f"{self._database.username}@{ADDRESS_OF_B}:{self.database_road.port}"
            ).geturl(),
        }
        super().__init__(folder, DATABASE_URL=database_url, NODE="a", OWN_STORE="1", **settings)

    def env_of(self, name: str) -> dict[str, str]:
        """As in a yard, on the part's own node."""
        env = super().env_of(name)
        if name not in NODE_B:
            return env
        return env | self._of_b | {"REDIS_URL": broker_url(self.folder, self.roads[name].port)}

    @contextmanager
    def without_b(self) -> Iterator[None]:
        """SIGKILL for all of node b, which stays away for the block."""
        with self.holding(*NODE_B):
            for name in NODE_B:
                self.kill(name)
            yield

    @contextmanager
    def b_cut_off(self) -> Iterator[None]:
        """Node b is there, and nothing passes between it and the broker or the database."""
        for name in NODE_B:
            self.roads[name].silence()
        self.database_road.cut()
        try:
            yield
        finally:
            self.database_road.heal()
            for name in NODE_B:
                self.roads[name].heal()

    def _watch_states(self) -> None:
        terminal = "('succeeded', 'failed', 'cancelled', 'timed_out')"
        changed = "NEW.status IS DISTINCT FROM OLD.status OR NEW.attempt IS DISTINCT FROM OLD.attempt"
        with self.database.write() as session:
            for statement in (
                "CREATE TABLE fault_changes (job TEXT, was TEXT, became TEXT)",
                "CREATE FUNCTION fault_note() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN INSERT INTO fault_changes VALUES (OLD.id, OLD.status, NEW.status); RETURN NEW; END $$",
                "CREATE TRIGGER fault_watch AFTER UPDATE ON jobs FOR EACH ROW "
                f"WHEN (OLD.status IN {terminal} AND ({changed})) EXECUTE FUNCTION fault_note()",
            ):
                session.execute(sa.text(statement))

    def close(self) -> None:
        """Ends everything."""
        super().close()
        self.database_road.close()
