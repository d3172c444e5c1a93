"""One download, told line by line: `python -m inference.download ORDER FD`."""

import os
import re
import sys
import traceback

import msgspec
import structlog
from huggingface_hub import get_token

from inference.download.errors import explain
from inference.download.order import Order
from inference.download.run import download, tidy
from inference.download.teller import Teller


def main() -> None:
    """The exit is at once: other connections may still be open, and nobody waits for them."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    order, teller = msgspec.json.decode(sys.argv[1], type=Order), Teller(int(sys.argv[2]))
    try:
        if order.sweep:
            tidy(order)
        else:
            done = download(order, teller)
            teller.say({**done._asdict(), "path": str(done.path)})
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent hears of it; the process ends here
        said = explain(error, order)
        teller.say({"error": said.code, "message": said.message, "traceback": _trace(error)})
        os._exit(1)
    os._exit(0)


def _trace(error: BaseException) -> str:
    """Where it went wrong, without the token, and without the signatures in a content network's addresses."""
    text = "".join(traceback.format_exception(error))
    token = get_token()
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text.replace(token, "…") if token else text)


if __name__ == "__main__":
    main()
