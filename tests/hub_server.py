"""A server with the endpoints of the Hugging Face hub that an upload and a download need.

It keeps all commits of its repositories in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = r"(?P<name>[^/]+/[^/]+)"


@dataclass
class Hub:
    """Repositories of the server: commits in order, each with all its files."""

    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Adds a commit with changed files, and returns its 40 hex digits."""
        commits = self.repositories[name]
        merged = {**(commits[-1][1] if commits else {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(merged))).encode()).hexdigest()
        commits.append((sha, merged))
        return sha

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(name, [])
        found = [one for one in commits if revision in ("main", one[0])]
        return found[-1] if found else None


class HubServer:
    """The server as a context; `address` is for HF_ENDPOINT."""

    def __init__(self) -> None:
        hub = self.hub = Hub()

        handler = type("HubHandler", (_HubRequests,), {"hub": hub})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _HubRequests(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def _send(
        self, status: int, content: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/(?P<revision>.+))?", path)
        tree = re.fullmatch(rf"/api/models/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/.*)?", path)
        file = re.fullmatch(rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        match = tree or file or found
        if match is None or match["name"] not in self.hub.repositories:
            return self._missing("RepoNotFound")
        at = self.hub.at(match["name"], match["revision"] or "main")
        if at is None:
            return self._missing("RevisionNotFound")
        sha, files = at
        if tree is not None:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files.items()
            ]
            return self._send(200, rows)
        if file is None:
            return self._send(200, {"id": match["name"], "modelId": match["name"], "sha": sha})
        if match["file"] not in files:
            return self._missing("EntryNotFound")
        data = files[match["file"]]
        return self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self._send(200, {"warnings": [], "errors": []})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.tokens:
            return self._send(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.hub.repositories:
                return self._send(409, {"error": "there is one", "url": name})
            self.hub.repositories[name] = []
            self.hub.private[name] = wanted.get("visibility") == "private"
            return self._send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        match = re.fullmatch(rf"/api/models/{REPOSITORY}/(preupload|commit)/main", path)
        if match is None or match["name"] not in self.hub.repositories:
            return self._missing("RepoNotFound")
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        sha = self.hub.commit(match["name"], added)
        address = f"http://{self.headers['Host']}/{match['name']}/commit/{sha}"
        return self._send(200, {"commitUrl": address, "commitOid": sha})


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
