"""A repository that has pickles alone, made into a safetensors folder of our own once. See inference/pickles.py."""

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

from inference.download.cache import Cache, make_room
from inference.download.choice import CONVERTIBLE
from inference.download.errors import DownloadError
from inference.download.facts import confined
from inference.download.listing import File, Listing

#: Tells in a converted folder which commit it was made from.
ORIGIN = ".commit"
#: The folder that it is made in, and the lock that says so, as app/disk.py has them: a scan sweeps what a crash left.
PARTIAL = ".new-"
LOCK = ".lock"
#: Bytes a second that a conversion passes at least, and what it may take beside, in seconds.
PACE = 20_000_000
GRACE = 300


def is_done(folder: Path, commit: str) -> bool:
    """Whether the folder holds that commit, converted."""
    origin = folder / ORIGIN
    return origin.is_file() and origin.read_text() == commit


def convert(cache: Cache, listing: Listing, into: Path) -> None:
    """Converts fetched files into a folder, which is there only when it is whole, and removes them.

    Raises DownloadError.
    """
    pickles = [file for file in listing.files if CONVERTIBLE.fullmatch(file.name)]
    make_room(cache.folder, sum(file.size for file in pickles), 0)
    into.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=into.parent))
    try:
        with (place / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it with this process
            whole = place / "model"
            whole.mkdir()
            _fill(whole, cache, listing, pickles)
            shutil.rmtree(into, ignore_errors=True)
            whole.rename(into)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(cache.folder)


def _fill(folder: Path, cache: Cache, listing: Listing, pickles: list[File]) -> None:
    for file in listing.files:
        if file not in pickles:
            (folder / file.name).parent.mkdir(exist_ok=True)
            shutil.copyfile(cache.pointer(file), folder / file.name)
    _run([str(cache.pointer(file)) for file in pickles], folder, sum(file.size for file in pickles))
    (folder / ORIGIN).write_text(listing.commit)


def _run(pickles: list[str], into: Path, size: int) -> None:
    try:
        child = confined("inference.pickles", str(into), *pickles, seconds=GRACE + size / PACE)
    except subprocess.TimeoutExpired:
        raise DownloadError("conversion_failed", "Converting the pickles took too long, and was ended.") from None
    if child.returncode:
        said = child.stdout.decode(errors="replace").strip() or f"its process ended with status {child.returncode}"
        other = "Pull a repository of the model that has .safetensors or .gguf."
        raise DownloadError("conversion_failed", f"The pickles could not be converted: {said}. {other}")
