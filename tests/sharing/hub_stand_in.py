"""A small stand-in of the hub's HTTP interface on the loopback address: repositories in memory, faults on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "secretsecretsecret"


@dataclass
class Hub:
    """What the hub holds, and what it was asked.

    Attributes:
        repos: files by name, for each repository ("dataset/USER/NAME").
        large: whether PNG files go by the protocol of large files.
        elsewhere: whether large files are redirected to another host.
        faults: statuses to answer with before anything else, by a part of the address.
        asked: method and address of every request.
        signed: addresses that came with the token.
        commits: how many were made.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: bool = False
    elsewhere: bool = False
    faults: dict[str, list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    signed: list[str] = field(default_factory=list)
    commits: int = 0
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    server: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def start(self) -> Hub:
        hub = self

        class Handler(_Handler):
            held = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    held: Hub

    def log_message(self, *words: object) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _do(self) -> None:
        hub, path = self.held, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            hub.signed.append(path)
        for part, statuses in hub.faults.items():
            if part in path and statuses:
                return self._answer(statuses.pop(0), {"error": "busy"})
        for pattern, action in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return action(self, hub, match, body)
        return self._answer(404, {"error": "no such address"}, X_Error_Code="EntryNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = _do

    def _repo(self, match: re.Match[str]) -> dict[str, bytes] | None:
        key = f"{match['kind']}/{match['repo']}"
        if key not in self.held.repos:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return self.held.repos[key]

    def create(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        asked = json.loads(body)
        if f"Bearer {TOKEN}" != self.headers.get("Authorization"):
            return self._answer(401, {"error": "Invalid token"})
        owner = asked.get("organization") or "someone"
        key = f"{asked['type']}/{owner}/{asked['name']}"
        there = key in hub.repos
        hub.repos.setdefault(key, {})
        hub.heads[key] = asked
        return self._answer(409 if there else 200, {"url": f"{hub.url}/{key.replace('/', 's/', 1)}"})

    def tree(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        if (files := self._repo(match)) is None:
            return
        entries: list[dict[str, Any]] = []
        for name, data in files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
            if hub.large and name.endswith(".png"):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
                entry["oid"] = "0" * 40
            entries.append(entry)
        self._answer(200, entries)

    def preupload(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = [("lfs" if hub.large and f["path"].endswith(".png") else "regular") for f in files]
        entries = [
            {"path": f["path"], "uploadMode": m, "shouldIgnore": False, "oid": None} for f, m in zip(files, modes)
        ]
        self._answer(200, {"files": entries})

    def batch(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in hub.blobs:
                entry["actions"] = {"upload": {"href": f"{hub.url}/large/{one['oid']}", "header": {}}}
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def large(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != match["oid"]:
            return self._answer(400)
        hub.blobs[match["oid"]] = body
        return self._answer(200)

    def other_host(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        self._answer(200, hub.blobs[match["oid"]])

    def commit(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        if (files := self._repo(match)) is None:
            return
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
        hub.commits += 1
        self._answer(
            200,
            {
                "commitUrl": f"{hub.url}/{match['kind']}s/{match['repo']}/commit/{'a' * 40}",
                "commitOid": "a" * 40,
                "success": True,
            },
        )

    def resolve(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        if (files := self._repo(match)) is None:
            return
        data = files.get(match["name"])
        if data is None:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        elif hub.elsewhere and match["name"].endswith(".png"):
            hub.blobs[hashlib.sha256(data).hexdigest()] = data
            target = f"{hub.url.replace('127.0.0.1', 'localhost')}/large/{hashlib.sha256(data).hexdigest()}"
            self._answer(302, Location=target)
        else:
            self._answer(200, data, ETag=f'"{_blob(data)}"', X_Repo_Commit="a" * 40)

    def fine(self, hub: Hub, match: re.Match[str], body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": [], "name": "someone"})


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_REPO = r"(?P<kind>dataset|space)s/(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, Any], ...] = (
    (r"POST /api/repos/create", _Handler.create),
    (rf"GET /api/{_REPO}/tree/main(/.*)?", _Handler.tree),
    (rf"POST /api/{_REPO}/preupload/main", _Handler.preupload),
    (rf"POST /api/{_REPO}/commit/main", _Handler.commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /large/(?P<oid>[0-9a-f]{64})", _Handler.large),
    (r"GET /large/(?P<oid>[0-9a-f]{64})", _Handler.other_host),
    (r"POST /api/validate-yaml", _Handler.fine),
    (r"GET /api/whoami-v2", _Handler.fine),
    (rf"(GET|HEAD) /{_REPO}/resolve/main/(?P<name>.+)", _Handler.resolve),
)
