"""What to download."""

from urllib.parse import unquote, urlsplit

import msgspec
from huggingface_hub import constants


class Order(msgspec.Struct, frozen=True):
    """A model to fetch, and the bounds of fetching it. Sizes are bytes, times seconds."""

    repo: str  #: "gpt2", "owner/name" or "owner/name:Q4_K_M"
    endpoint: str  #: the hub's address, without credentials
    cache: str  #: the folder that the hub's tools on this machine share
    revision: str | None = None  #: a branch, a tag or a commit; None: the default branch
    commit: str | None = None  #: the commit that an earlier attempt began with
    converted: str = ""  #: the folder for what was made from a repository of pickles; empty: such ones are refused
    staging: str = ""  #: where its pickles lie meanwhile: no other tool finds them there
    reserve: int = 0  #: of the disk, to be left free
    stall: float = 30.0  #: without a byte until a connection counts as dead
    hosts: tuple[str, ...] = ()  #: further ones that the hub may redirect to
    sweep: bool = False  #: fetch nothing: remove what earlier, unfinished downloads of this repository left

    @property
    def repo_id(self) -> str:
        """The repository alone."""
        return self.repo.partition(":")[0]

    @property
    def quant(self) -> str:
        """The quantization asked for, or nothing."""
        return self.repo.partition(":")[2]


def credentials() -> tuple[str, str] | None:
    """The name and password of `HF_ENDPOINT=https://name:password@mirror`. An order has none: processes are listed."""
    parts = urlsplit(constants.ENDPOINT)
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
