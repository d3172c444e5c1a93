"""The child that holds one engine: `python -m inference.host COMMANDS STEPS`, two descriptors of pipes.

It reads what to load, says Info or Failure, then takes commands on a thread of its own and writes one message an engine
step. Steps have their own descriptor because the libraries below print to stdout. A reader that is slow blocks only
the writing: commands are still read, so a cancel always arrives.
"""

import faulthandler
import gc
import os
import sys
import threading
from contextlib import suppress
from functools import partial

import structlog

from inference.catalog import build
from inference.errors import EngineDiedError, LoadError
from inference.protocol import Chunk, Engine, Failure, Spec
from inference.wire import Abort, Close, Command, Progress, Reader, Submit, Writer, command_decoder, spec_decoder

log = structlog.get_logger()


def main() -> None:
    """Load, serve, end. The exit is at once: engines' own clean-up at exit can hang, the kernel's cannot."""
    faulthandler.enable()
    _log_plainly()
    commands, steps = int(sys.argv[1]), int(sys.argv[2])
    for fd in (commands, steps):
        os.set_inheritable(fd, False)  # an engine's own children must not hold our pipes open
        os.register_at_fork(after_in_child=partial(os.close, fd))
    writer = Writer(steps)
    file = os.fdopen(commands, "rb")
    spec = Reader(file, spec_decoder).read()
    status = 0
    try:
        if spec is not None:
            _run(spec, Reader(file, command_decoder), writer)
    except Exception as error:
        log.exception("engine.died")
        _say_why(error, writer)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _say_why(error: Exception, writer: Writer) -> None:
    """The last step: a chunk of no request, for the owner alone."""
    with suppress(OSError):
        writer.write([Chunk("", error=Failure(EngineDiedError.code, str(error)))])


def _log_plainly() -> None:
    """One line an event, on stderr, and tracebacks without local variables: prompts do not belong into logs."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _run(spec: Spec, reader: Reader[Command], writer: Writer) -> None:
    try:
        engine = build(spec, lambda fraction: writer.write(Progress(fraction)))
    except LoadError as error:
        writer.write(Failure(error.code, error.message))
        return
    except MemoryError:
        writer.write(Failure("out_of_memory", f"There is too little memory to load {spec.path}. Evict another model."))
        return
    gc.collect()
    gc.freeze()  # or each of its collections would stop the steps for as long as it takes to look at a whole library
    writer.write(engine.info)
    threading.Thread(target=_obey, args=(engine, reader), name="commands", daemon=True).start()
    for step in engine.steps():
        writer.write(step)


def _obey(engine: Engine, reader: Reader[Command]) -> None:
    """Carry out commands until the owner closes the pipe, or dies. An engine that cannot is better dead than deaf."""
    try:
        while (command := reader.read()) is not None:
            _carry_out(engine, command)
    except Exception:
        log.exception("engine.command_failed")
        os._exit(1)
    os._exit(0)


def _carry_out(engine: Engine, command: Command) -> None:
    match command:
        case Submit(request):
            engine.submit(request)
        case Abort(request_id):
            engine.abort(request_id)
        case Close():
            engine.close()


if __name__ == "__main__":
    main()
