"""Names of models as Ollama writes them: `name:tag`, where a missing tag means `latest`."""

from app.errors import ModelNotDownloadedError, TokenyardError
from app.kernel import Kernel

LATEST = ":latest"


class UnknownModelError(TokenyardError):
    """A model that is not here, in Ollama's words, which its clients look for."""

    code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found", param="model")


def resolved(kernel: Kernel, name: str) -> str:
    """The name under which the catalogue has the model. Raises UnknownModelError."""
    for spelling in (name, name.removesuffix(LATEST), f"{name}{LATEST}"):
        try:
            return kernel.catalog.get(spelling).name
        except ModelNotDownloadedError:
            continue
    raise UnknownModelError(name)


def tagged(name: str) -> str:
    """The name with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST
