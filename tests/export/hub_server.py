"""A model hub on the loopback: the part of its protocol that huggingface_hub speaks to download a model."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Body = Literal["whole", "truncated", "slow"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the hub answers instead of the truth."""

    status: int = 200
    code: str = ""
    body: Body = "whole"


@dataclass(kw_only=True)
class Hub:
    """One model on a hub, and what has been asked of it."""

    url: str = ""
    id: str = "org/tiny"
    commit: str = COMMIT
    revisions: set[str] = field(default_factory=lambda: {"main", "v1", COMMIT})
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    """By the last part of the address: a revision or a file name."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request, in order of arrival."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run `hub` at a free port and set its `url`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        pass

    def _route(self) -> None:
        hub, path = self.hub, unquote(self.path)
        hub.requests.append(f"{self.command} {path}")
        api, files = f"/api/models/{hub.id}/revision/", f"/{hub.id}/resolve/"
        if path.startswith(api):
            self._answer(path.removeprefix(api), "", self._facts())
        elif path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            self._answer(revision, name, hub.files.get(name))
        else:
            self._refuse(404, "RepoNotFound")

    def _facts(self) -> bytes:
        siblings = [{"rfilename": name} for name in self.hub.files]
        return json.dumps({"id": self.hub.id, "sha": self.hub.commit, "siblings": siblings}).encode()

    def _answer(self, revision: str, name: str, content: bytes | None) -> None:
        fault = self.hub.faults.get(name or revision, Fault())
        if fault.body == "slow":
            time.sleep(1)
        if fault.status != 200:
            self._refuse(fault.status, fault.code)
        elif revision not in self.hub.revisions:
            self._refuse(404, "RevisionNotFound")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(content, truncated=fault.body == "truncated")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, *, truncated: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if truncated else content)
