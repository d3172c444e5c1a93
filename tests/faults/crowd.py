"""A thousand followers of one job on one thread: they read to the end, and their transcripts are looked at then."""

import asyncio

from tests.faults.followers import Transcript, of_sse
from tests.stack import sse


def crowd(port: int, job_id: str, number: int) -> list[Transcript]:
    """Follows a job over so many connections at once; returns when it has ended for all."""
    return asyncio.run(_all(port, job_id, number))


async def _all(port: int, job_id: str, number: int) -> list[Transcript]:
    return await asyncio.gather(*(_follow(port, job_id) for _ in range(number)))


async def _follow(port: int, job_id: str) -> Transcript:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /jobs/{job_id}/stream HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    body = await reader.read()
    writer.close()
    transcript = Transcript(job_id)
    transcript.told = [told for data in sse(body.decode().splitlines()) if (told := of_sse(data)) is not None]
    return transcript
