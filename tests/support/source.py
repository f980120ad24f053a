"""A web server on this machine that serves files well or badly, as tests tell it."""

import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


class Source:
    """``source.paths["/name"]`` is a function of the request's handler that answers it."""

    def __init__(self, port: int):
        self.paths: dict[str, Callable] = {}
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)
        self.over = Event()  # the test has ended
        self.port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def add(self, path: str, answer: Callable) -> str:
        """Serve `answer` at `path`; the URL."""
        self.paths[path] = answer
        return self.url(path)


@contextmanager
def running():
    """A source that answers until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            source.requests.append((self.path, self.headers["Range"]))
            source.paths.get(self.path, status(404))(self)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        source = Source(server.server_port)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield source
        finally:
            source.over.set()
            server.shutdown()
            thread.join()


def begin(handler, content: bytes, ranges: bool, kind="application/octet-stream") -> bytes:
    """Send the head of an answer with `content`, and return the bytes that shall follow."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    start = int(asked[1]) if asked and ranges else 0
    if asked and ranges and start >= len(content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return b""
    handler.send_response(206 if asked and ranges else 200)
    if asked and ranges:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", span)
    if kind:
        handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    return content[start:]


def file(content: bytes, ranges: bool = True, kind: str = "application/octet-stream"):
    """All of it."""
    return lambda handler: handler.wfile.write(begin(handler, content, ranges, kind))


def status(code: int):
    """An error, explained on a web page as servers do."""
    return lambda handler: handler.send_error(code)


def first(count: int, answer, then):
    """`answer` to the first `count` requests, `then` to the others."""
    answers = iter([answer] * count)
    return lambda handler: next(answers, then)(handler)


def dropping(content: bytes, after: int, ranges: bool = True):
    """Every connection ends after `after` bytes of what it should send."""
    return lambda handler: handler.wfile.write(begin(handler, content, ranges)[:after])


def dropping_chunks(content: bytes, after: int):
    """As GitHub's archives: no length is told, and the connection ends in the middle."""

    def answer(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(f"{len(content):x}\r\n".encode() + content[:after])
        handler.close_connection = True

    return answer


def stalling(source: Source, content: bytes, after: int):
    """Sends `after` bytes and then nothing, without closing the connection."""

    def answer(handler):
        handler.wfile.write(begin(handler, content, True)[:after])
        handler.wfile.flush()
        source.over.wait()

    return answer


def slow(content: bytes, pieces: int, pause: float = 0.01):
    """Small pieces with pauses."""

    def answer(handler):
        data = begin(handler, content, True)
        step = -(-len(data) // pieces)
        for i in range(0, len(data), step):
            handler.wfile.write(data[i : i + step])
            time.sleep(pause)

    return answer
