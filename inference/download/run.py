"""A download from the order to the model: list, make room, look at what it is, fetch, and convert where asked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants

from inference.download import conversion
from inference.download.cache import Cache, make_room, sweep
from inference.download.choice import CONVERTIBLE
from inference.download.facts import facts_of
from inference.download.fetch import Fetcher
from inference.download.known import check_config, check_gguf
from inference.download.listing import File, Listing, list_files
from inference.download.order import Order
from inference.download.teller import Teller
from inference.download.transfer import CONNECTIONS, Hub

CONFIG = "config.json"


class Done(NamedTuple):
    """A model that is here. `facts` are what its files tell of it."""

    path: Path
    format: str
    size_bytes: int
    commit: str
    facts: dict[str, Any]


def download(order: Order, teller: Teller) -> Done:
    """Fetches a model. Raises DownloadError, and what errors.explain() explains."""
    listing = list_files(order)
    if any(CONVERTIBLE.fullmatch(file.name) for file in listing.files):
        return _converted(order, listing, teller)
    cache = _fetch_all(order, listing, order.cache, teller)
    cache.remember(order.revision or constants.DEFAULT_REVISION)
    first = listing.files[0]
    is_gguf = first.name.endswith(".gguf")
    path = cache.pointer(first) if is_gguf else cache.snapshot
    facts = {**facts_of(path), "fetched": cache.fetched(listing.files)}
    size = sum(file.size for file in listing.files)
    return Done(path, "gguf" if is_gguf else "safetensors", size, listing.commit, facts)


def tidy(order: Order) -> None:
    """Removes what unfinished downloads of the repository left, wherever they may have left it."""
    for root in filter(None, (order.cache, order.staging)):
        sweep(Path(root), order.repo_id)


def _fetch_all(order: Order, listing: Listing, root: str, teller: Teller) -> Cache:
    files, cache = listing.files, Cache(Path(root), order.repo_id, listing.commit)
    cache.prepare()
    have = {file.name: cache.standing(file) for file in files}
    make_room(cache.folder, sum(file.size for file in files) - sum(have.values()), order.reserve)
    teller.begin(files, listing.commit, have)
    fetcher = Fetcher(order, cache, Hub(order), teller)
    config = next((file for file in files if file.name == CONFIG), None)
    if config is not None:
        check_config(fetcher.fetch(config))
    checks = {files[0].name: check_gguf} if files[0].name.endswith(".gguf") else {}
    _at_once([file for file in files if file != config], lambda file: fetcher.fetch(file, checks.get(file.name)))
    return cache


def _at_once(files: list[File], fetch: Callable[[File], Path]) -> None:
    """Several files at a time, the small ones first. Raises the first error; the process ends with what still runs."""
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
    try:
        for future in as_completed([pool.submit(fetch, file) for file in sorted(files, key=lambda file: file.size)]):
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _converted(order: Order, listing: Listing, teller: Teller) -> Done:
    path = Path(order.converted)
    if not conversion.is_done(path, listing.commit):
        cache = _fetch_all(order, listing, order.staging, teller)
        teller.say({"phase": "converting"})
        conversion.convert(cache, listing, path)
    size = sum(part.stat().st_size for part in path.rglob("*"))
    return Done(path, "safetensors", size, listing.commit, facts_of(path))
