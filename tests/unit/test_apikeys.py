"""Keys as they are kept, and what a process knows of them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from app import keyring, settings
from app.apikeys import ApiKeys, Identity, KeyNotFoundError, Proof, Role, require_key
from app.cli import app
from app.cli.migrate import migrate
from app.clock import Clock
from app.database import Database
from app.errors import BadSettingsError, InvalidRequestError, NotAllowedError, UnavailableError
from app.keyring import Keyring
from app.models import ApiKey
from app.settings import Settings


@pytest.fixture
def keys(database: Database) -> ApiKeys:
    return ApiKeys(database, Clock())


def ring(keys: ApiKeys, **given: object) -> Keyring:
    return Keyring(keys.all, Settings(_env_file=None, **given), Clock())


def test_a_key_is_not_in_the_database(keys: ApiKeys, database: Database) -> None:
    key = keys.create("alice", Role.USER)
    secret = key.split("-", 2)[2]
    with database.read() as session:
        row = [str(value) for value in session.execute(sa.select(*ApiKey.__table__.columns)).one()]
    assert len(secret) >= 43
    assert not any(secret in value for value in row)
    assert keys.create("bob", Role.USER) != key


def test_a_key_says_who_it_is_and_what_it_may(keys: ApiKeys) -> None:
    key = keys.create("alice", Role.USER, requests_per_minute=5, models=["a"], top_priority=3)
    who = ring(keys).identify(Proof.of(key))
    assert who == Identity("alice", Role.USER, requests_per_minute=5, models=("a",), top_priority=3)
    for role, best in {Role.USER: 5, Role.OPERATOR: 0}.items():
        plain = ring(keys).identify(Proof.of(keys.create(role, role)))
        assert plain is not None
        assert plain.top_priority == best
    who.check_model("a")
    with pytest.raises(NotAllowedError, match="may not use 'b'"):
        who.check_model("b")
    assert [who.priority(5, said=True), who.priority(1, said=False)] == [5, 3]
    with pytest.raises(NotAllowedError, match="3 at best"):
        who.priority(2, said=True)


def test_what_is_no_key_is_nobody(keys: ApiKeys) -> None:
    key = keys.create("alice", Role.USER)
    other = keys.create("bob", Role.USER)
    known = ring(keys)
    stem, ident, secret = key.split("-", 2)
    wrong = [
        "", "ty-", key[:-1], key + "x", key.upper(), f"{stem}-{ident}-{other.split('-', 2)[2]}",
        f"{stem}-000000000000-{secret}", "ké\udcff",
    ]  # fmt: skip
    assert [known.identify(Proof.of(given)) for given in wrong] == [None] * len(wrong)
    assert known.identify(None) is None


def test_a_revoked_and_an_expired_key_are_nobody(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "FRESH", 0.0)
    key, short = keys.create("alice", Role.USER), keys.create("bob", Role.USER, expires_in=0.05)
    known = ring(keys)
    assert known.identify(Proof.of(key)) is not None
    assert keys.revoke("alice") == 1
    assert known.identify(Proof.of(key)) is None
    time.sleep(0.06)
    assert known.identify(Proof.of(short)) is None
    # The last one is gone, and the server does not open up for that.
    assert known.identify(None) is None
    with pytest.raises(KeyNotFoundError):
        keys.revoke("alice")


def test_a_name_is_a_tenant_and_not_given_twice_by_mistake(keys: ApiKeys) -> None:
    first = keys.create("alice", Role.USER)
    keys.revoke("alice")
    with pytest.raises(InvalidRequestError, match="--again"):
        keys.create("alice", Role.USER)
    second = keys.create("alice", Role.USER, again=True)
    who = ring(keys).identify(Proof.of(second))
    assert who is not None
    assert (who.tenant, first != second) == ("alice", True)


@pytest.mark.parametrize("name", ["", "a b", "-x", "ü", "x" * 65, "a/b", "a\n"])
def test_a_name_that_cannot_be_one_is_told(keys: ApiKeys, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        keys.create(name, Role.USER)


def test_only_loopback_without_any_key_is_open(keys: ApiKeys) -> None:
    assert ring(keys).identify(None) == Identity(keyed=False)
    assert ring(keys).identify(Proof.of("anything")) == Identity(keyed=False)
    assert ring(keys, api_key="sesame").identify(None) is None
    assert ring(keys, host="0.0.0.0").identify(None) is None
    assert ring(keys, allowed_hosts="localhost,127.0.0.1").identify(None) == Identity(keyed=False)
    assert ring(keys, allowed_hosts="localhost,ai.example.org").identify(None) is None
    assert ring(keys, api_key="sesame", host="0.0.0.0").identify(Proof.of("sesame")) == Identity()
    keys.create("alice", Role.USER)
    assert ring(keys).identify(None) is None


def test_the_first_key_beside_that_of_the_environment_is_known_at_once(keys: ApiKeys) -> None:
    known = ring(keys, api_key="sesame")
    assert known.identify(None) is None
    assert known.identify(Proof.of(keys.create("alice", Role.USER))) is not None


def test_keys_are_read_once_a_while_however_many_ask(keys: ApiKeys) -> None:
    reads: list[int] = []
    known = Keyring(lambda: reads.append(1) or keys.all(), Settings(_env_file=None), Clock())
    key = Proof.of(keys.create("alice", Role.USER))
    for _ in range(500):
        assert known.identify(key) is not None
    assert len(reads) == 1
    # One that was made just now is known at once; guesses are few reads, however many come together.
    assert known.identify(Proof.of(keys.create("bob", Role.USER))) is not None
    reads.clear()
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        guesses = [pool.submit(known.identify, Proof.of(f"ty-{n:012x}-" + "x" * 43)) for n in range(64)]
    assert [guess.result() for guess in guesses] == [None] * 64
    assert len(reads) <= 1 + (time.monotonic() - began) / keyring.MISSING


def test_a_stream_asks_without_waiting_and_all_of_them_read_once(keys: ApiKeys) -> None:
    reads, stuck = [0], threading.Event()

    def read() -> list[ApiKey]:
        reads[0] += 1
        if reads[0] > 1:
            assert stuck.wait(timeout=20)
        return keys.all()

    known = Keyring(read, Settings(_env_file=None), Clock())
    proof = Proof.of(keys.create("alice", Role.USER))
    assert known.identify(proof) is not None
    keys.revoke("alice")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyring, "FRESH", 0.0)
        assert all([known.still(proof) for _ in range(500)])  # while the database hangs
        assert reads[0] == 2
        stuck.set()
        deadline = time.monotonic() + 10
        while known.still(proof):
            assert time.monotonic() < deadline


def test_while_the_database_is_away_what_was_known_holds_for_a_while(
    keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    away: list[bool] = []

    def read() -> list[ApiKey]:
        if away:
            raise UnavailableError("database_unavailable", "gone")
        return keys.all()

    known = Keyring(read, Settings(_env_file=None), Clock())
    proof = Proof.of(keys.create("alice", Role.USER))
    assert known.identify(proof) is not None
    away.append(True)
    monkeypatch.setattr(keyring, "FRESH", 0.0)
    assert known.identify(proof) is not None
    monkeypatch.setattr(keyring, "STALE", 0.0)
    with pytest.raises(UnavailableError):
        known.identify(proof)


def test_a_server_for_others_wants_a_key_first(tmp_path: Path) -> None:
    ours = Settings(host="0.0.0.0", data_dir=tmp_path, _env_file=None)
    migrate(ours)
    with pytest.raises(BadSettingsError, match="tokenyard keys create"):
        require_key(ours)
    require_key(Settings(host="127.0.0.1", data_dir=tmp_path, _env_file=None))
    require_key(Settings(host="0.0.0.0", api_key="k" * 16, data_dir=tmp_path, _env_file=None))
    database = Database(ours.database_url)
    keys = ApiKeys(database, Clock())
    keys.create("ops", Role.OPERATOR)
    require_key(ours)
    keys.revoke("ops")
    with pytest.raises(BadSettingsError):
        require_key(ours)
    database.close()


def test_a_server_that_answers_to_another_name_is_for_others_too(tmp_path: Path) -> None:
    ours = Settings(allowed_hosts="ai.example.org", data_dir=tmp_path, _env_file=None)
    migrate(ours)
    with pytest.raises(BadSettingsError, match=r"ALLOWED_HOSTS=ai\.example\.org .* tokenyard keys create"):
        require_key(ours)
    require_key(Settings(allowed_hosts="localhost,::1", data_dir=tmp_path, _env_file=None))


@pytest.mark.parametrize("fields", [{"host": "0.0.0.0"}, {"allowed_hosts": "ai.example.org"}])
def test_a_key_that_others_could_guess_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(BadSettingsError, match="16 characters"):
        require_key(Settings(api_key="k" * 15, _env_file=None, **fields))
    require_key(Settings(api_key="k" * 16, _env_file=None, **fields))
    require_key(Settings(api_key="k", _env_file=None))


def test_the_first_key_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sesame\n# rotated in spring\n")
    given = Settings(api_key_file=secret, _env_file=None).api_key
    assert given is not None
    assert given.get_secret_value() == "sesame"
    with pytest.raises(ValueError, match="both set"):
        Settings(api_key_file=secret, api_key="other", _env_file=None)
    with pytest.raises(ValueError, match="cannot be read"):
        Settings(api_key_file=tmp_path / "none", _env_file=None)
    secret.write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        Settings(api_key_file=secret, _env_file=None)


def test_the_command_makes_lists_and_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "load", lambda: Settings(data_dir=tmp_path, _env_file=None))
    run = CliRunner().invoke
    made = run(
        app,
        ["keys", "create", "alice", "--expires", "90d", "--model", "m", "--max-queued", "5", "--files-quota", "2GB"],
    )
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    listed = run(app, ["keys", "list"]).stdout
    assert "alice" in listed
    assert "queued: 5; bytes of files: 2000000000; priority: 5; models: m" in listed
    assert key not in listed
    assert key.split("-", 2)[2] not in listed
    assert "Revoked 1 key" in run(app, ["keys", "revoke", key.split("-")[1]]).stdout
    assert "revoked" in run(app, ["keys", "list", "--json"]).stdout
    assert isinstance(run(app, ["keys", "create", "x", "--role", "king"]).exception, InvalidRequestError)
    assert isinstance(run(app, ["keys", "create", "x", "--files-quota", "much"]).exception, InvalidRequestError)
    assert isinstance(run(app, ["keys", "create", "x", "--expires", "-1"]).exception, InvalidRequestError)
