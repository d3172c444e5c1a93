"""Settings: read once from the environment and `.env`, then frozen. Nothing else reads the environment.

Each one is documented in docs/settings.md, and a test holds the two together.
"""

import functools
import ipaddress
import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import secrets
from app.durations import FOR_EVER, seconds_of
from app.errors import BadSettingsError

Duration = Annotated[float, BeforeValidator(seconds_of)]
#: A plain int at the end: what pydantic makes of "2GB" is of a type of its own, which no wire of ours carries.
Size = Annotated[ByteSize, AfterValidator(int)]
Role = Literal["web", "worker", "puller", "keeper", "beat", "flower", "cli"]


class Settings(BaseSettings):
    """Every knob of Tokenyard. Sizes are bytes and times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8005
    data_dir: Path = Path("data")
    redis_url: str = Field(default="", repr=False)
    redis_ca_file: Path | None = None
    database_url: str = Field(default="", repr=False)
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    forwarded_allow_ips: str = "127.0.0.1,::1"
    web_processes: Annotated[int, Field(ge=1, le=64)] = 1

    tokenyard_url: str = ""
    tokenyard_api_key: SecretStr | None = None

    broker_port: int | None = None
    flower: bool = True
    flower_port: int | None = None
    flower_url: str | None = None

    role: Role = "cli"
    device: str = "cpu.0"
    devices: Annotated[tuple[str, ...], NoDecode] = ()
    node: str = Field(default_factory=socket.gethostname)
    own_store: bool = False
    engine: Literal["auto", "vllm", "transformers", "llamacpp"] = "auto"
    worker_slots: Annotated[int, Field(ge=1, le=1024)] | None = None
    gpu_layers: int = -1
    max_cache_models: Annotated[int, Field(ge=1, le=64)] = 2
    preload_models: Annotated[tuple[str, ...], NoDecode] = ()
    keep_alive: Duration = FOR_EVER
    model_load_cooldown: Annotated[float, Field(ge=0)] = 300.0
    model_load_timeout: Annotated[float, Field(gt=0)] = 600.0
    model_q4_threshold_bytes: Annotated[float, Field(ge=0)] = 14e9
    max_gpu_memory: Size | None = None
    max_cpu_memory: Size | None = None
    enable_scripted_engine: bool = False

    hf_home: Path | None = None
    hf_hub_cache: Path | None = None
    hf_endpoint: str = Field(default="https://huggingface.co", repr=False)  # a mirror's may hold a password
    hf_token: SecretStr | None = None
    hf_redirect_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_concurrent_pulls: Annotated[int, Field(ge=1, le=32)] = 2
    pull_disk_reserve: ByteSize = ByteSize(1_000_000_000)
    pull_stall_seconds: Annotated[float, Field(gt=0)] = 30.0
    allow_pickle_conversion: bool = False
    starter_gguf: Path | None = None
    starter_bf16: Path | None = None

    scan_models: bool = True
    models_extra_scan_dirs: Annotated[tuple[str, ...], NoDecode] = ()
    ollama_models: Path | None = None
    lmstudio_models: Path | None = None

    session_ttl: Annotated[float, Field(gt=0)] = 3600.0
    session_turns: Annotated[int, Field(ge=1, le=1000)] = 20

    max_queue: Annotated[int, Field(ge=1)] = 512
    max_queued_jobs: Annotated[int, Field(ge=1)] = 200_000
    files_quota: ByteSize = ByteSize(10_000_000_000)
    retention_days: Annotated[float, Field(gt=0)] = 30.0
    retention_jobs: Annotated[int, Field(ge=0)] = 100_000
    lease_seconds: Annotated[float, Field(gt=0)] = 15.0
    renew_seconds: Annotated[float, Field(gt=0)] = 5.0
    sweep_seconds: Annotated[float, Field(gt=0)] = 5.0
    resend_seconds: Annotated[float, Field(gt=0)] = 30.0
    stream_ttl_seconds: Annotated[int, Field(gt=0)] = 600
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    audit_log: bool = True
    audit_prompts: bool = False
    log_format: Literal["readable", "json"] = "readable"

    @field_validator(
        "cors_origins",
        "allowed_hosts",
        "preload_models",
        "devices",
        "models_extra_scan_dirs",
        "hf_redirect_hosts",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        data_dir = self.data_dir.expanduser().absolute()
        # The model is frozen for everyone else; this is its construction.
        object.__setattr__(self, "data_dir", data_dir)
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{data_dir / 'jobs.db'}")
        if not self.redis_url:
            object.__setattr__(self, "redis_url", self._embedded_broker())
        elif self.redis_url.startswith("rediss://"):
            object.__setattr__(self, "redis_url", self._verified_broker())
        if self.api_key_file is not None:
            object.__setattr__(self, "api_key", self._read_key(self.api_key_file))
        return self

    def _verified_broker(self) -> str:
        """The URL with what redis-py and Celery are to verify the server by, unless it says that itself."""
        wanted = {"ssl_cert_reqs": "required"}
        if self.redis_ca_file is not None:
            path = self.redis_ca_file.expanduser().absolute()
            if not path.is_file():
                raise ValueError(
                    f"REDIS_CA_FILE={self.redis_ca_file} is no file: it holds the CA's certificate, as PEM."
                )
            wanted["ssl_ca_certs"] = str(path)
        url = urlsplit(self.redis_url)
        return url._replace(query=urlencode(wanted | dict(parse_qsl(url.query)))).geturl()

    def _read_key(self, path: Path) -> SecretStr:
        """The file's first line, as container runtimes and systemd hand secrets over. Raises ValueError."""
        if self.api_key is not None:
            raise ValueError("API_KEY and API_KEY_FILE are both set. Keep one of them.")
        try:
            key = path.expanduser().read_text().partition("\n")[0].strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"API_KEY_FILE={path} cannot be read ({type(error).__name__}).") from None
        if not key:
            raise ValueError(f"API_KEY_FILE={path} has an empty first line; the key belongs there.")
        return SecretStr(key)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address that the web process binds."""
        return is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether only this machine is served. Who allows another name has a proxy pass others' requests on."""
        return self.is_loopback and all(map(is_loopback, self.allowed_hosts))

    @property
    def address(self) -> str:
        """Where the command finds the API: TOKENYARD_URL, else where this machine's own stack serves."""
        return self.tokenyard_url.rstrip("/") or self.own_address

    @property
    def own_address(self) -> str:
        """Where this machine's own stack serves."""
        host = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def store_node(self) -> str:
        """This node, where it keeps models on a disk of its own; "" where all find the same files."""
        return self.node if self.own_store else ""

    @property
    def models_dir(self) -> Path:
        """Where models that we made or imported live."""
        return self.data_dir / "models"

    @property
    def hub_cache(self) -> Path:
        """Where Hugging Face's tools on this machine keep what they download, ours included."""
        home = self.hf_home or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
        return (self.hf_hub_cache or home / "hub").expanduser().absolute()

    @property
    def ollama_stores(self) -> tuple[Path, ...]:
        """Where Ollama keeps its models: run by a user, or installed as a service."""
        own = (self.ollama_models,) if self.ollama_models else ()
        usual = (Path("~/.ollama/models"), Path("/usr/share/ollama/.ollama/models"))
        return tuple(path.expanduser().absolute() for path in own or usual)

    @property
    def lmstudio_stores(self) -> tuple[Path, ...]:
        """Where LM Studio keeps its models, if it is on this machine; older versions had another place."""
        own = (self.lmstudio_models,) if self.lmstudio_models else ()
        return tuple(
            path.expanduser() for path in own or (Path("~/.lmstudio/models"), Path("~/.cache/lm-studio/models"))
        )

    @property
    def secrets_dir(self) -> Path:
        """Where the passwords are that this stack made for itself."""
        return self.data_dir / "secrets"

    def _embedded_broker(self) -> str:
        # Read here, as an environment with the password in it would be every child's.
        password = secrets.kept(self.secrets_dir / "broker")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.broker_port or 6379}/0"

    @property
    def lock_dir(self) -> Path:
        """Where the processes of this stack keep their locks, sockets and generated files."""
        return self.data_dir / "run"


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine, wherever it is asked."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.cache
def load() -> Settings:
    """The process's settings. Raises BadSettingsError with one line a fault."""
    try:
        return Settings()
    except ValidationError as error:
        raise BadSettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"]).upper()
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {message}" if name else message)
    return "; ".join(lines)
