"""A real HTTP server in this process that answers as the gateway does, or fails as it is told to."""

import contextlib
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Plan = str | tuple[int, dict[str, str], bytes]


class EventServer:
    """Keeps events by id. The next requests go as ``plan`` says, then all is well.

    ``"refuse"``: the connection ends before the body is read. ``"cut"``: events are kept, and the connection ends in the middle
    of the answer. ``"garble"``: a 200 that is another server's. A tuple: status, headers and body. ``hold``: waits for ``go``.

    Attributes:
        kept: how often each id was stored as new: never more than once.
        requests: ids of each request, in order. keys: what came as Authorization.
    """

    def __init__(self, port: int = 0) -> None:
        self.kept: Counter[str] = Counter()
        self.requests: list[list[str]] = []
        self.keys: set[str | None] = set()
        self.plan: deque[Plan] = deque()
        self.reject: Callable[[dict[str, Any]], bool] = lambda event: False
        self.go, self.held = threading.Event(), threading.Event()
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                owner.connections.add(self.connection)

            def do_POST(self) -> None:
                owner.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "EventServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            plan = self.plan.popleft() if self.plan else "ok"
        if plan == "refuse":
            self._hang_up(request)
            return
        body = request.rfile.read(int(request.headers["content-length"]))
        events = json.loads(body)["events"]
        with self._lock:
            self.keys.add(request.headers["authorization"])
            self.requests.append([event["event_id"] for event in events])
        if plan == "hold":
            self.held.set()
            self.go.wait()
        if isinstance(plan, tuple):
            self._send(request, *plan)
            return
        if plan == "garble":
            self._send(request, 200, {}, b"<html>welcome to the wifi</html>")
            return
        raw = json.dumps({"results": [self._keep(event) for event in events]}).encode()
        if plan == "cut":
            request.send_response(200)
            request.send_header("content-length", str(len(raw)))
            request.end_headers()
            request.wfile.write(raw[: len(raw) // 2])
            request.wfile.flush()
            self._hang_up(request)
            return
        self._send(request, 200, {"content-type": "application/json"}, raw)

    def _keep(self, event: dict[str, Any]) -> dict[str, str]:
        event_id = event["event_id"]
        if self.reject(event):
            return {"event_id": event_id, "status": "rejected", "reason": "invalid", "detail": "type: found another"}
        with self._lock:
            known = event_id in self.kept
            self.kept[event_id] += not known
        return {"event_id": event_id, "status": "duplicate" if known else "accepted"}

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def _hang_up(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
