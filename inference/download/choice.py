"""Which files of a repository make the model: one form of its weights, and no code."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from inference.download.errors import DownloadError
from inference.download.order import Order
from inference.gguf import parts

#: What a safetensors model is made of, at the top of its repository. Code is never fetched.
PARTS = (".safetensors", ".json", ".txt", ".model", ".jinja")
#: Formats that run code when they are read carelessly.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
#: The pickles that transformers writes, which is what a conversion understands.
CONVERTIBLE = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
#: The card; its head names the licence.
CARD = "README.md"


def choose(names: Sequence[str], order: Order) -> list[str]:
    """The files to fetch out of a repository's. Raises DownloadError."""
    names = [name for name in names if _is_plain(name)]
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    weights = _weights(names)
    if weights and not order.quant:
        return [name for name in names if name in weights or _describes(name)]
    if ggufs:
        chosen = _quantized(ggufs, order)
        whole = set(parts(Path(chosen)))
        return [name for name in ggufs if Path(name) in whole] or [chosen]
    pickled = [name for name in names if CONVERTIBLE.fullmatch(name)]
    if pickled and order.converted and not order.quant:
        return [name for name in names if name in pickled or _describes(name)]
    raise _no_weights(names, order)


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name.isprintable()


def _weights(names: Sequence[str]) -> list[str]:
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    # Mistral's repositories hold the same weights twice: `consolidated` is for their own runtime.
    return [name for name in found if not name.startswith("consolidated")] or found


def _describes(name: str) -> bool:
    """Whether a file belongs to a model beside its weights: configuration, tokenizer, templates, the card."""
    path = PurePosixPath(name)
    top = len(path.parts) == 1 or (path.parts[0] == "additional_chat_templates" and len(path.parts) == 2)
    pickle_index = any(name.endswith(f"{suffix}.index.json") for suffix in PICKLES)
    kind = path.suffix in PARTS and path.suffix != ".safetensors"
    return name == CARD or (top and kind and not pickle_index)


def _quantized(ggufs: Sequence[str], order: Order) -> str:
    # A projector (mmproj) holds the eyes of a vision model, not its language.
    ggufs = [name for name in ggufs if "mmproj" not in name.lower()] or ggufs
    for wanted in [order.quant] if order.quant else ["Q4_K_M", "Q4_"]:
        pattern = re.compile(
            rf"(?<![a-z0-9]){re.escape(wanted)}{'' if wanted.endswith('_') else '(?![a-z0-9_])'}", re.I
        )
        for name in ggufs:
            if pattern.search(PurePosixPath(name).name):
                return name
    if order.quant:
        raise DownloadError(
            "file_not_found",
            f"'{order.repo_id}' has no file of quantization '{order.quant}'. It has: {_listing(ggufs)}.",
        )
    return ggufs[0]


def _no_weights(names: Sequence[str], order: Order) -> DownloadError:
    repo = order.repo_id
    if order.quant:
        reason = f"'{repo}' has no GGUF files, so ':{order.quant}' picks nothing; pull it as '{repo}'"
        return DownloadError("no_weights", f"{reason}, or name a repository of GGUF files.")
    if not any(name.endswith(PICKLES) for name in names):
        return DownloadError(
            "no_weights",
            f"'{repo}' holds no weights in safetensors or GGUF form. Pull a repository of the model that does.",
        )
    reason = f"'{repo}' has its weights as pickle files alone, and reading those can run foreign code."
    other = "pull a repository of the model that has .safetensors or .gguf"
    if any(CONVERTIBLE.fullmatch(name) for name in names):
        remedy = f"Set ALLOW_PICKLE_CONVERSION=1 to convert them to safetensors once, in a confined process; or {other}"
    else:
        remedy = other.capitalize()
    return DownloadError("pickle_weights", f"{reason} {remedy}.")


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) + more) or "nothing"
