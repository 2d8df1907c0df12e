"""A server process that speaks the hub's protocol, and breaks it where `faults.json` in its folder says so.

python -m tests.hub_server FOLDER: serves FOLDER/org/name/*, and prints its address. Weights are redirected to another host, as
the hub does. Each request is a line of FOLDER/requests.jsonl.
"""

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BRANCHES = ("main", "v1")
COMMIT = re.compile(r"[0-9a-f]{40}")
STATE, FAULTS, REQUESTS = ".state.json", "faults.json", "requests.jsonl"
BLOCK = 2**14
FORBIDDEN = {"GatedRepo": (401, 403), "RepoNotFound": (401, 404)}  # without and with a token


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        self.status, self.body = status, body
        self.headers = {**({"X-Error-Code": code, "X-Error-Message": code} if code else {}), **(headers or {})}


def commit(repo: Path) -> str:
    """Of all it holds."""
    state = hashlib.sha1()
    for path in files(repo):
        state.update(path.name.encode() + hashed(path)[0].encode())
    return state.hexdigest()


def hashed(path: Path) -> tuple[str, str]:
    """git's sha1 of the content, and its sha256."""
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, changed: int) -> tuple[str, str]:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % size + content).hexdigest(), hashlib.sha256(content).hexdigest()


def files(repo: Path) -> list[Path]:
    return sorted(path for path in repo.iterdir() if path.name != STATE)


def state(repo: Path) -> dict[str, Any]:
    path = repo / STATE
    return json.loads(path.read_text()) if path.exists() else {}


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: Path
    spent: dict[str, int] = {}  # noqa: RUF012  (shared by all requests)
    lock = threading.Lock()

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, body: bool) -> None:
        address = urlsplit(self.path)
        self._note()
        try:
            self.fault = self._fault()
            if "status" in self.fault:
                raise Refusal(self.fault["status"], self.fault.get("code", ""), self.fault.get("headers"),
                              self.fault.get("body", "{}").encode())
            parts = [unquote(part) for part in address.path.strip("/").split("/")]
            if parts[:2] == ["api", "models"]:
                self._info("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
            elif parts[0] == "cdn":
                self._file(self.root / parse_qs(address.query)["at"][0], body)
            elif parts[2:3] == ["resolve"]:
                self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
            else:
                raise Refusal(404, "RepoNotFound")
        except Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def _note(self) -> None:
        asked = {"method": self.command, "path": self.path, "range": self.headers.get("Range"), "host": self.headers["Host"],
                 "token": self.headers.get("Authorization")}
        with self.lock, (self.root / REQUESTS).open("a") as file:
            file.write(json.dumps(asked) + "\n")

    def _fault(self) -> dict[str, Any]:
        """The first that is meant for this request and not used up."""
        path = self.root / FAULTS
        for fault in json.loads(path.read_text()) if path.exists() else ():
            if re.search(fault["match"], self.path):
                with self.lock:
                    self.spent[fault["id"]] = self.spent.get(fault["id"], 0) + 1
                    if self.spent[fault["id"]] <= fault.get("times", 10**9):
                        return dict(fault)
        return {}

    def _repo(self, name: str, revision: str) -> Path:
        repo = self.root / name
        token = 1 if self.headers.get("Authorization") else 0
        if not repo.is_dir():
            raise Refusal(FORBIDDEN["RepoNotFound"][token], "RepoNotFound")
        if revision not in BRANCHES and not COMMIT.fullmatch(revision):
            raise Refusal(404, "RevisionNotFound")
        return repo

    def _info(self, name: str, revision: str) -> None:
        repo = self._repo(name, revision)
        listed = [self._sibling(path) for path in files(repo)] + state(repo).get("extra", [])
        said = {"_id": "0", "id": name, "modelId": name, "private": False, "tags": [], "downloads": 0, "likes": 0,
                "sha": revision if COMMIT.fullmatch(revision) else commit(repo), "siblings": listed}
        self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _sibling(self, path: Path) -> dict[str, Any]:
        (sha1, sha256), size = hashed(path), path.stat().st_size
        large = {"lfs": {"sha256": sha256, "size": size, "pointerSize": 134}} if is_large(path.name) else {}
        return {"rfilename": path.name, "size": size, "blobId": sha1, **large}

    def _resolve(self, name: str, revision: str, file: str, body: bool) -> None:
        repo = self._repo(name, revision)
        token = self.headers.get("Authorization")
        if (wanted := state(repo).get("gated")) and token != f"Bearer {wanted}":
            raise Refusal(FORBIDDEN["GatedRepo"][1 if token else 0], "GatedRepo")
        path = repo / file
        if path not in files(repo):
            raise Refusal(404, "EntryNotFound")
        if not is_large(file):
            return self._file(path, body, {"X-Repo-Commit": commit(repo)})
        large = self._sibling(path)
        headers = {"X-Repo-Commit": commit(repo), "X-Linked-Etag": f'"{large["lfs"]["sha256"]}"',
                   "X-Linked-Size": str(large["size"]),
                   "Location": f"http://localhost:{self.server.server_port}/cdn/{file}?at={name}/{file}"}  # type: ignore[attr-defined]
        return self._send(302, b"", headers)

    def _file(self, path: Path, body: bool, headers: Mapping[str, str] | None = None) -> None:
        content = bytearray(Path(self.fault.get("instead", path)).read_bytes())
        if "flip" in self.fault:
            content[self.fault["flip"]] ^= 1
        span, first = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")), 0
        if span and not self.fault.get("whole"):
            first, last = int(span[1]), int(span[2] or len(content) - 1)
            if first >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            told = first + self.fault.get("shift", 0)
            extra = {"Content-Range": f"bytes {told}-{last}/{len(content)}"}
            return self._send(206, bytes(content[first : last + 1]), {**(headers or {}), **extra}, body)
        return self._send(200, bytes(content), headers or {}, body)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command == "GET":
            self._write(content)

    def _write(self, content: bytes) -> None:
        """cut: bytes after which the connection ends; rate: bytes a second."""
        cut = self.fault.get("cut", len(content))
        try:
            for start in range(0, min(cut, len(content)), BLOCK):
                self.wfile.write(content[start : min(start + BLOCK, cut)])
                if rate := self.fault.get("rate"):
                    time.sleep(BLOCK / rate)
        except OSError:
            cut = 0
        if cut < len(content):
            self.close_connection = True


def main(root: str) -> None:
    Handler.root = Path(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
