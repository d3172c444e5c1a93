"""`tokenyard run`: ask a model, once or in a conversation."""

import sys
from typing import Annotated, Any

import typer

from app.cli.words import AsJson, connect, dump, err, out

HELP = """/bye          leave (or Ctrl-D)
/clear        forget the conversation
/system TEXT  set the system prompt
\"\"\"           begin and end a message of several lines
Ctrl-C        stop the answer"""
ASK = "Ask"


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command(rich_help_panel=ASK)(run)


def run(
    model: str,
    prompt: Annotated[list[str] | None, typer.Argument(help="Without one: piped input, or a conversation.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the job's id and leave it running.")] = False,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 is the most urgent, 9 the least.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that it may run.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell counts and rates after each answer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model, pulling it first where it is missing. `cat FILE | tokenyard run MODEL 'Summarise this:'`"""
    from app.cli.client import CommandError

    options = {"max_tokens": max_tokens, "temperature": temperature, "priority": priority, "timeout": timeout}
    chat = Chat(connect(), model, {k: v for k, v in options.items() if v is not None}, system, verbose)
    words = " ".join(prompt or ())
    if not sys.stdin.isatty():
        words = "\n\n".join(part for part in (words, sys.stdin.read().strip()) if part)
        if not words:
            raise CommandError("There is nothing to ask: give a prompt, or pipe one in.", exit_code=2)
    chat.make_ready()
    if detach and not words:
        raise CommandError("--detach needs a prompt.", exit_code=2)
    if not words:
        chat.converse()
    elif detach:
        job = chat.submit(words)
        dump(job) if as_json else out.print(job["id"])
        if not as_json:
            err.print(f"Follow it: tokenyard logs -f {job['id']}")
    else:
        chat.answer_once(words, as_json=as_json)


class Chat:
    """A conversation. Each answer is a job of its own, so that a lost connection loses nothing of it."""

    def __init__(self, client: Any, model: str, options: dict[str, Any], system: str | None, verbose: bool) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._system = system
        self._verbose = verbose
        self._turns: list[dict[str, str]] = []

    def make_ready(self) -> None:
        """Pulls the model where it is not here. Raises CommandError."""
        from app.cli.client import CommandError
        from app.cli.stock import fetch

        try:
            missing = self._client.get(f"/models/{self._model}")["state"] != "ready"
        except CommandError as error:
            if error.reason not in ("model_not_found", "model_not_downloaded"):
                raise
            missing = True
        if missing:
            err.print(f"{self._model} is not here yet; pulling it.")
            fetch(self._client, {"model": self._model})

    def submit(self, words: str) -> dict[str, Any]:
        """Accepted; the job. Raises CommandError."""
        head = [{"role": "system", "content": self._system}] if self._system else []
        messages = [*head, *self._turns, {"role": "user", "content": words}]
        job: dict[str, Any] = self._client.post("/jobs", {"model": self._model, "messages": messages, **self._options})
        return job

    def answer_once(self, words: str, *, as_json: bool) -> None:
        """Streams one answer. Ctrl-C ends its job. Raises CommandError."""
        from app.cli.following import print_answer

        job = self.submit(words)
        try:
            end = print_answer(self._client, job["id"], quiet=as_json)
        except KeyboardInterrupt:
            self._client.delete(f"/jobs/{job['id']}")
            raise
        if as_json:
            dump(self._client.get(f"/jobs/{job['id']}"))
        self._tell(end)

    def converse(self) -> None:
        """Asks for messages until the user leaves."""
        err.print(f"{self._model}. /help lists what else you can type.")
        while (words := _read_message()) is not None:
            word, _, rest = words.partition(" ")
            if word in ("/bye", "/exit"):
                return
            if word == "/clear":
                self._turns.clear()
            elif word == "/system":
                self._system = rest.strip() or None
            elif word in ("/help", "/?"):
                err.print(HELP)
            elif words:
                self._take_turn(words)

    def _take_turn(self, words: str) -> None:
        from app.cli.client import CommandError
        from app.cli.following import print_answer

        said: list[str] = []
        try:
            job = self.submit(words)
            try:
                self._tell(print_answer(self._client, job["id"], said=said))
            except KeyboardInterrupt:
                self._client.delete(f"/jobs/{job['id']}")
                err.print("\nStopped.")
        except CommandError as error:
            err.print(f"tokenyard: {error.message}")
        if said:
            self._turns += [{"role": "user", "content": words}, {"role": "assistant", "content": "".join(said)}]

    def _tell(self, end: dict[str, Any]) -> None:
        if self._verbose:
            rate = end["eval_count"] / max(end["eval_duration"], 1) * 1e9
            err.print(
                f"{end['prompt_eval_count']} tokens in, {end['eval_count']} out, {rate:.0f} tokens/s, "
                f"{end['total_duration'] / 1e9:.1f} s in all"
            )


def _read_message() -> str | None:
    """A line, or several between triple quotes; None at the end of the input."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its editing
    try:
        line = input(">>> ").strip()
        if not line.startswith('"""'):
            return line
        lines = [line[3:]]
        while not lines[-1].rstrip().endswith('"""') or (len(lines) == 1 and not lines[0]):
            lines.append(input("... "))
        return "\n".join(lines).rstrip().removesuffix('"""').strip()
    except KeyboardInterrupt:
        err.print("\n/bye leaves.")
        return ""
    except EOFError:
        err.print()
        return None
