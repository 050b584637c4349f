"""A closed-loop HTTP load, in a process of its own: raw keep-alive connections on uvloop, so that the client costs little.

``python benchmarks/client.py URL BODIES --connections N --seconds S`` prints one JSON line: requests, errors, rate, latencies.
"""

import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import typer
import uvloop


async def _connection(
    host: str, port: int, requests: list[bytes], first: int, step: int, until: float
) -> tuple[list[float], int]:
    reader, writer = await asyncio.open_connection(host, port)
    latencies, errors, at = [], 0, first
    while (started := time.perf_counter()) < until:
        writer.write(requests[at % len(requests)])
        at += step
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        latencies.append(time.perf_counter() - started)
        # an answer that left work out was cheaper to make, and does not count
        errors += not (head.startswith(b"HTTP/1.1 200") and b'"degraded":[]' in body)
    writer.close()
    return latencies, errors


async def _run(url: str, bodies: list[str], connections: int, seconds: float) -> dict[str, object]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body.encode())}\r\n\r\n{body}".encode() for body in bodies]
    started = time.perf_counter()
    until = started + seconds
    done = await asyncio.gather(*(_connection(host, port, requests, i, connections, until) for i in range(connections)))
    took = time.perf_counter() - started
    latencies = sorted(x for found, _ in done for x in found)

    def at(q: float) -> float:
        return 1e3 * latencies[min(len(latencies) - 1, int(q * len(latencies)))]

    return {
        "requests": len(latencies),
        "errors": sum(errors for _, errors in done),
        "per_s": len(latencies) / took,
        "p50_ms": at(0.5),
        "p95_ms": at(0.95),
        "p99_ms": at(0.99),
    }


def main(url: str, bodies: Path, connections: int = 1, seconds: float = 5.0) -> None:
    """Send the JSON bodies (one a line) round robin over the connections."""
    print(json.dumps(uvloop.run(_run(url, bodies.read_text().splitlines(), connections, seconds))))


if __name__ == "__main__":
    typer.run(main)
