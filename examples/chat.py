"""Ask several questions at once over one WebSocket, and lose nothing when the connection breaks.

    pip install websockets
    python examples/chat.py smollm2 "Why is the sky blue?" "Name three rivers."

The server makes each question a job that runs on without us. Its events are numbered by `seq`; after a break we open a
new socket and `follow` each job from the last number that we have. TOKENYARD_URL and API_KEY come from the environment.
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

URL = os.environ.get("TOKENYARD_URL", "http://127.0.0.1:8005").replace("http", "ws", 1).rstrip("/") + "/ws"
KEY = os.environ.get("API_KEY")


@dataclass
class Answer:
    """One question, and what is here of its answer."""

    model: str
    prompt: str
    job_id: str | None = None
    seq: int = 0
    text: str = ""
    ended: str | None = None

    def frame(self, ref: int) -> dict[str, Any]:
        """What to send on a new socket: the question, or where to go on with its answer."""
        if self.job_id is not None:
            return {"type": "follow", "ref": ref, "job_id": self.job_id, "after": self.seq}
        messages = [{"role": "user", "content": self.prompt}]
        return {"type": "generate", "ref": ref, "model": self.model, "messages": messages}

    def take(self, frame: dict[str, Any]) -> None:
        """Adds a frame of the server's."""
        self.job_id = frame.get("job_id", self.job_id)
        self.seq = frame.get("seq", self.seq)
        if frame["type"] == "token":
            self.text += frame["text"]
        elif frame["type"] == "done":
            self.ended = frame["done_reason"]
        elif frame["type"] == "error":
            self.ended = frame["error"]["message"]


async def ask(answers: list[Answer]) -> None:
    """Returns when all have ended."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    # Used as an iterator, `connect` opens a new socket after each break, waiting longer each time.
    async for socket in connect(URL, additional_headers=headers):
        try:
            await _talk(socket, answers)
            return await socket.close()
        except websockets.ConnectionClosed as error:
            print(f"Lost the connection ({error}); going on where it was.", file=sys.stderr)


async def _talk(socket: ClientConnection, answers: list[Answer]) -> None:
    for ref, answer in enumerate(answers):
        if answer.ended is None:
            await socket.send(json.dumps(answer.frame(ref)))
    while any(answer.ended is None for answer in answers):
        frame = json.loads(await socket.recv())
        answers[frame["ref"]].take(frame)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: python {sys.argv[0]} MODEL PROMPT…")
    asked = [Answer(sys.argv[1], prompt) for prompt in sys.argv[2:]]
    asyncio.run(ask(asked))
    for answer in asked:
        print(f"{answer.prompt}\n{answer.text}\n[{answer.ended}, job {answer.job_id}]\n")
