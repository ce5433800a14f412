"""A web server on this machine that serves files, whole or in every broken way."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(kw_only=True)
class Site:
    """What is served, and how.

    Attributes:
        files: Contents by name.
        cuts: After how many bytes of the body to close each next connection.
        ranges: Whether the server can start in the middle.
        shift: How far from the byte that was asked for it starts instead.
        silent: Whether it keeps the length to itself.
        asked: What has been asked for: name, and first byte or None.
    """

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    shift: int = 0
    silent: bool = False
    asked: list[tuple[str, int | None]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Site]:
    """Serve `files` below ``/sets`` until the block ends."""
    site = Site(files=dict(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/sets/")
            wish = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(wish[1]) if wish else None
            site.asked.append((name, first))
            if name not in site.files:
                self.send_error(404)
                return
            content = site.files[name]
            if first is not None and site.ranges:
                first += site.shift
                if first >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                span = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
                content = content[first:]
            else:
                self.send_response(200)
            if not site.silent:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else len(content)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[:cut])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/sets"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
