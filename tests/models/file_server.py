"""A local HTTP server that behaves like the authors' file server, and like servers that fail."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FileServer(ThreadingHTTPServer):
    """Serves `files` under their names with ranges and ETags.

    Attributes:
        files: content by name.
        disposition: file name in Content-Disposition, or None.
        redirect: True: /NAME answers with a redirect to /files/NAME, as a share link with ?dl=1.
        cut_after: bytes after which a connection is cut, one for each of the next requests.
        page: True: an HTML page with status 200 instead of every file.
        length: False: the size of a file is not sent.
        ranges: False: requests for a part are answered with the whole file.
        pause: seconds before the content of a file is sent.
        requests: (path, Range) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.disposition: str | None = None
        self.redirect = self.page = False
        self.ranges = self.length = True
        self.pause = 0.0
        self.cut_after: list[int] = []
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        server.requests.append((self.path, self.headers["Range"]))
        name = unquote(path.rsplit("/", 1)[-1])
        if server.page:
            return self._answer(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
        if name not in server.files:
            return self._answer(404, b"none")
        if server.redirect and not path.startswith("/files/"):
            return self._answer(302, b"", {"Location": f"/files/{name}"})
        content, etag = server.files[name], f'"{hash(server.files[name])}"'
        headers = {"Content-Type": "application/octet-stream", "ETag": etag, "Accept-Ranges": "bytes"}
        if server.disposition:
            headers["Content-Disposition"] = f'attachment; filename="{server.disposition}"'
        wanted = self.headers["Range"]
        if wanted and server.ranges and self.headers["If-Range"] in (None, etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._answer(206, content[start:], headers)
        return self._answer(200, content, headers)

    def _answer(self, status: int, content: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status < 300:
            time.sleep(self.server.pause)
        if content and self.server.cut_after and status < 300:
            content = content[: self.server.cut_after.pop(0)]
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A running server on a free port."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
