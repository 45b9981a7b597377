"""A Hub on 127.0.0.1: model folders served over the protocol that huggingface_hub speaks.

What it answers: model information and file trees (``/api/models/...``), and HEAD and GET of
``/ID/resolve/REVISION/FILE`` with ``ETag``, ``X-Repo-Commit`` and sizes. Weights are redirected to
another host name, as the real Hub sends them to its content network, and honour ``Range``.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE_FILE_SUFFIXES = (".safetensors", ".bin")

_API = re.compile(
    r"/api/(?:models/|(?=datasets/))(?P<repo_id>(?:datasets/)?[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
_RESOLVE = re.compile(
    r"/(?P<repo_id>(?:datasets/)?[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
_CONTENT = re.compile(
    r"/content/(?P<repo_id>[^/]+(?:/[^/]+)?)/(?P<revision>[0-9a-f]{40})/(?P<path>.+)"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request the server received."""

    method: str
    path: str
    user_agent: str
    authorization: str | None


@dataclass(kw_only=True)
class _Repository:
    revisions: dict[str, Path] = field(default_factory=dict)
    main: str = ""
    is_gated: bool = False
    lost_bytes: int = 0

    def commit(self, revision: str) -> str | None:
        """Return the commit that a branch or hash stands for, or None."""
        commit = self.main if revision == "main" else revision
        return commit if commit in self.revisions else None


class HubServer:
    """Publishes model folders under Hub ids.

    Args:
        port: Port on 127.0.0.1; 0 lets the system choose.

    Attributes:
        requests: What was asked.
        spoiled: Files that arrive with one bit changed, under the digest that they should have.
        behind_portal: Ids for which a login page answers, whatever is asked.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.spoiled: set[Path] = set()
        self.behind_portal: set[str] = set()
        self._repositories: dict[str, _Repository] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        """Port on 127.0.0.1."""
        return self._http.server_port

    @property
    def endpoint(self) -> str:
        """Address for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.port}"

    def publish(
        self,
        repo_id: str,
        folder: Path,
        *,
        revision: str | None = None,
        is_gated: bool = False,
        lost_bytes: int = 0,
    ) -> str:
        """Serve ``folder`` as a new commit of ``repo_id``, which ``main`` then points at.

        Args:
            repo_id: ``owner/name``, or ``datasets/owner/name``.
            folder: Files of the repository.
            revision: Commit, 40 hexadecimal digits; derived from id and folder by default.
            is_gated: Files need a token (answer 401 ``GatedRepo`` without one).
            lost_bytes: So many last bytes of the weights never arrive, though they are announced.

        Returns:
            The commit.
        """
        commit = revision or hashlib.sha1(f"{repo_id}@{folder}".encode()).hexdigest()
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"revision={commit!r} must be 40 hexadecimal digits")
        repository = self._repositories.setdefault(repo_id, _Repository())
        repository.revisions[commit] = Path(folder)
        repository.main = commit
        repository.is_gated = is_gated
        repository.lost_bytes = lost_bytes
        return commit

    def repository(self, repo_id: str) -> _Repository | None:
        """Return what is published under ``repo_id``."""
        return self._repositories.get(repo_id)

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Answer requests from a background thread until the block ends."""
        thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_HubHandler):
        server_hub = hub

    return Handler


class _HubHandler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        """Keep the test log quiet; ``HubServer.requests`` has it all."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server_hub.requests.append(
            Request(
                method=self.command,
                path=path,
                user_agent=self.headers.get("User-Agent", ""),
                authorization=self.headers.get("Authorization"),
            )
        )
        if any(f"/{repo_id}/" in path for repo_id in self.server_hub.behind_portal):
            return self._send(200, b"<html>Please log in.</html>", {"Content-Type": "text/html"})
        if ".." in path:
            return self._refuse(404, "EntryNotFound", "outside of the repository")
        for pattern, answer in (
            (_API, self._answer_api),
            (_RESOLVE, self._answer_resolve),
            (_CONTENT, self._answer_content),
        ):
            if match := pattern.fullmatch(path):
                return answer(**match.groupdict())
        return self._refuse(404, "NotFound", f"no route {path}")

    def _answer_api(
        self, repo_id: str, kind: str | None, revision: str | None, path: str | None
    ) -> None:
        found = self._commit(repo_id, revision or "main")
        if found is None:
            return
        repository, commit = found
        folder = repository.revisions[commit]
        if kind == "tree":
            return self._answer_tree(folder, path or "")
        files = [{"rfilename": entry["path"]} for entry in _entries(folder, "") or ()]
        self._send_json(
            {
                "_id": commit[:24],
                "id": repo_id,
                "modelId": repo_id,
                "sha": commit,
                "private": False,
                "gated": "auto" if repository.is_gated else False,
                "tags": [],
                "downloads": 0,
                "siblings": files,
            }
        )

    def _answer_tree(self, folder: Path, path: str) -> None:
        entries = _entries(folder, path)
        if entries is None:
            return self._refuse(404, "EntryNotFound", f"{path} does not exist")
        return self._send_json(entries)

    def _answer_resolve(self, repo_id: str, revision: str, path: str) -> None:
        found = self._commit(repo_id, revision)
        if found is None:
            return
        repository, commit = found
        if repository.is_gated and not self.headers.get("Authorization"):
            return self._refuse(401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        file = repository.revisions[commit] / path
        headers = {"X-Repo-Commit": commit}
        if not file.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found", headers)
        if file.suffix not in LARGE_FILE_SUFFIXES:
            return self._send_file(file, headers | {"ETag": f'"{_git_oid(file)}"'})
        # Another host name than the endpoint's, or the client would follow it before it asks for
        # the metadata: the real Hub keeps weights elsewhere, too.
        address = f"http://localhost:{self.server_hub.port}/content/{repo_id}/{commit}/{path}"
        digest = f'"{_sha256(file)}"'
        headers |= {"Location": address, "ETag": digest, "X-Linked-ETag": digest}
        return self._send(302, b"", headers | {"X-Linked-Size": str(file.stat().st_size)})

    def _answer_content(self, repo_id: str, revision: str, path: str) -> None:
        repository = self.server_hub.repository(repo_id)
        if repository is None or revision not in repository.revisions:
            return self._refuse(404, "EntryNotFound", "no such content")
        return self._send_file(repository.revisions[revision] / path, {}, repository.lost_bytes)

    def _commit(self, repo_id: str, revision: str) -> tuple[_Repository, str] | None:
        """Return a repository and commit, or None after refusing the request."""
        repository = self.server_hub.repository(repo_id)
        if repository is None:
            # The real Hub answers 401 for what does not exist, so as not to tell it from private.
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return None
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _send_file(self, file: Path, headers: dict[str, str], lost_bytes: int = 0) -> None:
        content = file.read_bytes()
        if file in self.server_hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers = headers | {
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"
            }
        self._send(206 if wanted else 200, content[start:], headers, lost_bytes)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps({"error": message}).encode()
        why = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, body, (headers or {}) | why)

    def _send(self, status: int, body: bytes, headers: dict[str, str], lost_bytes: int = 0) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: max(0, len(body) - lost_bytes)])
        if lost_bytes:
            self.close_connection = True


def _entries(folder: Path, path: str) -> list[dict[str, object]] | None:
    """List the files under ``path`` as the Hub's tree does, or None where there is none."""
    root = folder / path
    if not root.is_dir():
        return None
    return [
        {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": file.stat().st_size,
            "oid": _git_oid(file),
        }
        for file in sorted(root.rglob("*"))
        if file.is_file()
    ]


def _git_oid(file: Path) -> str:
    """Return git's object id of a file, the Hub's ETag of small files."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
