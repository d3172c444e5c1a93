"""Dockerfile and docker-compose.yml: nobody here can build them, so what can be checked without is."""

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from app.cli import app as command_line
from app.cli import procfile
from app.settings import Settings
from tests.stack import ROOT

SECRETS = {"API_KEY": "one", "BROKER_PASSWORD": "two"}
#: What the file of several machines wants to know besides.
MORE = {"POSTGRES_PASSWORD": "three", "GRAFANA_PASSWORD": "four", "NODE": "here", "STORES": "10.0.0.1"}


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if service["image"].startswith("tokenyard:")}


def dockerfile(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_each_process_of_the_procfile_has_its_container() -> None:
    run = {service["command"].split()[-1] for name, service in ours().items() if name != "setup"}
    assert run == set(dict(procfile._lines())) - {"broker", "flower"}


def test_only_the_web_process_is_published_and_on_loopback_unless_asked() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["web"]
    assert services()["web"]["ports"] == ["${PUBLISH:-127.0.0.1}:${PORT:-8005}:8005"]


def test_secrets_have_no_defaults() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


def test_containers_get_settings_that_there_are() -> None:
    given = {name for service in ours().values() for name in service["environment"]}
    given |= {word.split("=")[0] for line in dockerfile("ENV") for word in line.split()} - {"PATH", "PYTHONPATH"}
    assert {name for name in given if name.lower() not in Settings.model_fields} == set()


def test_each_kind_of_hardware_has_one_worker() -> None:
    workers = {service["profiles"][0]: service for service in ours().values() if "profiles" in service}
    assert set(workers) == {"cpu", "gpu"}
    assert workers["cpu"]["environment"]["DEVICE"] == "cpu.0"
    assert workers["gpu"]["environment"]["DEVICE"] == "gpu.0"
    reserved = workers["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_the_image_holds_what_it_copies_and_runs() -> None:
    lets_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in dockerfile("COPY") for word in line.split()[:-1] if word != "."]
    for pattern in [*copied, "app", "tasks", "inference", "migrations", "Procfile", "alembic.ini", "celeryconfig.py"]:
        assert any(ROOT.glob(pattern)), pattern
        assert any(fnmatch(pattern, allowed) for allowed in lets_in), pattern
    verbs = {command.name or command.callback.__name__ for command in command_line.registered_commands}
    assert {"up", "process", "migrate", "starter"} <= verbs
    assert dockerfile("CMD") == ['["tokenyard", "up"]']


def test_the_parts_of_several_machines_are_all_there_and_no_more_is_open_than_needs_be() -> None:
    text = (ROOT / "deploy/split/compose.yml").read_text()
    parts = yaml.safe_load(text)["services"]
    own = {name: part for name, part in parts.items() if part["image"].startswith("tokenyard:")}
    assert {part["command"].split()[-1] for part in own.values()} == {*dict(procfile._lines()), "migrate"} - {
        "broker",
        "flower",
    }
    assert {
        name for part in own.values() for name in part["environment"] if name.lower() not in Settings.model_fields
    } == set()
    assert all(part["profiles"] for part in parts.values())
    opened = {name: port.partition(":")[0] for name, part in parts.items() for port in part.get("ports", ())}
    assert opened == {"postgres": "${PRIVATE", "broker": "${PRIVATE", "nginx": "${PUBLISH", "grafana": "127.0.0.1"}
    for secret in ("API_KEY", "BROKER_PASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD"):
        assert f"${{{secret}:?" in text
        assert f"${{{secret}:-" not in text
    for part in parts.values():
        for mount in part.get("volumes", ()):
            if mount.startswith("."):
                assert (ROOT / "deploy/split" / mount.partition(":")[0]).exists(), mount


#: What the images of others write to, besides /tmp; by their Dockerfiles and entrypoints.
WRITTEN = {
    "postgres": {"/var/lib/postgresql/data", "/var/run/postgresql"},
    "valkey/valkey": {"/data"},
    "nginx": {"/run", "/var/cache/nginx"},
    "prom/prometheus": {"/prometheus"},
    "grafana/grafana": {"/var/lib/grafana", "/var/log/grafana"},
}


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/split/compose.yml"])
def test_no_container_may_more_than_it_needs(file: str) -> None:
    whole = yaml.safe_load((ROOT / file).read_text())
    for name, part in whole["services"].items():
        assert part["read_only"], name
        assert part["cap_drop"] == ["ALL"], name
        assert part["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "network_mode"} & set(part), name
        image = part["image"].partition(":")[0]
        if image != "tokenyard":
            assert part["user"] not in ("root", "0"), name
            mounts = [mount.split(":")[1] for mount in part.get("volumes", ()) if not mount.endswith(":ro")]
            scratch = [mount.partition(":")[0] for mount in part.get("tmpfs", ())]
            assert WRITTEN[image] <= {*mounts, *scratch}, name
    # Compose copies such a secret into the root, and Docker refuses that where it is read-only.
    assert not any("environment" in secret for secret in whole.get("secrets", {}).values())
    assert dockerfile("USER") == ["tokenyard"]


def test_what_prometheus_reads_is_where_its_container_puts_it() -> None:
    parts = yaml.safe_load((ROOT / "deploy/split/compose.yml").read_text())["services"]
    told = yaml.safe_load((ROOT / "deploy/split/prometheus.yml").read_text())["scrape_configs"][0]
    assert f"> {told['authorization']['credentials_file']} " in parts["prometheus"]["entrypoint"][-1]
    [targets] = told["file_sd_configs"][0]["files"]
    assert f'"$$WEB" > {targets}\n' in parts["prometheus"]["entrypoint"][-1]


def test_prometheus_asks_whom_it_reaches_by_a_name_that_is_let_in() -> None:
    parts = yaml.safe_load((ROOT / "deploy/split/compose.yml").read_text())["services"]
    name, port = parts["prometheus"]["environment"]["WEB"].removeprefix("${WEB:-").removesuffix("}").split(":")
    assert parts[name]["ports"][0].endswith(f":{port}")
    assert f"listen {port};" in (ROOT / "deploy/nginx.conf").read_text()
    assert parts["web"]["environment"]["ALLOWED_HOSTS"].split(",")[0] == name


def test_the_stores_of_several_machines_answer_before_their_tables_are_made() -> None:
    text = (ROOT / "deploy/split/compose.yml").read_text()
    parts = yaml.safe_load(text)["services"]
    order = re.findall(r"^#.*docker compose (up|run) (.+)$", text, re.MULTILINE)
    assert [verb for verb, _ in order] == ["up", "run", "up"]
    assert "--wait" in order[0][1]
    first = {name for name in parts if name in order[0][1].split()}
    assert first == {name for name, part in parts.items() if "stores" in part["profiles"]}
    assert all("healthcheck" in parts[name] for name in first)
    assert parts[order[1][1].split()[-1]]["command"] == "tokenyard migrate"


def compose() -> list[str] | None:
    """The client, as a plugin or alone."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]) and not subprocess.run([*client, "version"], capture_output=True).returncode:
            return client
    return None


@pytest.mark.skipif(compose() is None, reason="no docker compose on this machine")
@pytest.mark.parametrize(
    ("file", "profiles"),
    [
        ("docker-compose.yml", "cpu"),
        ("docker-compose.yml", "gpu"),
        ("deploy/split/compose.yml", "stores"),
        ("deploy/split/compose.yml", "web,watch"),
        ("deploy/split/compose.yml", "worker-gpu"),
    ],
)
def test_compose_takes_the_file_and_wants_the_secrets(file: str, profiles: str) -> None:
    client = compose() or []
    env = {**os.environ, "COMPOSE_PROFILES": profiles}
    check = [*client, "-f", str(ROOT / file), "config", "-q"]
    assert subprocess.run(check, env=env | SECRETS | MORE, capture_output=True, text=True).stderr == ""
    refused = subprocess.run(check, env=env | MORE, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "to a long random string" in refused.stderr
