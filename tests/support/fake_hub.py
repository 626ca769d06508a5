"""A Hugging Face Hub on localhost, with the requests that `huggingface_hub` makes."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class FakeHub:
    """Repositories that a server on localhost offers.

    Attributes:
        repositories: content of the files by path, by repository.
        cut: paths of files whose next download ends in the middle.
        refused: error code (`X-Error-Code`) and status by repository.
        requests: method and path of all requests.
        tokens: values of the header that carries a token.
        url: address of the server.
    """

    def __init__(self):
        self.repositories: dict[str, Mapping[str, bytes]] = {}
        self.cut: set[str] = set()
        self.refused: dict[str, tuple[str, int]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.url = ""


def commit(files: Mapping[str, bytes]) -> str:
    """Returns 40 hexadecimal digits that stand for the content of a repository."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextlib.contextmanager
def fake_hub(cache: Path) -> Iterator[FakeHub]:
    """Runs a hub, which `huggingface_hub` asks while the block runs.

    Args:
        cache: folder for downloaded files.
    """
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    # The package has read the environment when it was imported.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(with_body=True)

        def do_HEAD(self):
            self._answer(with_body=False)

        def log_message(self, *_):
            pass

        def _answer(self, with_body: bool):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            hub.tokens |= {self.headers["authorization"]} - {None}
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            parts = parts[2:] if api else parts
            name = "/".join(parts[:2])
            if name in hub.refused:
                return self._send(
                    b"{}", hub.refused[name][1], {"X-Error-Code": hub.refused[name][0]}
                )
            if name not in hub.repositories:
                return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            files = hub.repositories[name]
            sha = commit(files)
            if api and parts[2] == "revision" and parts[3] in ("main", "v1", sha):
                siblings = [{"rfilename": file} for file in files]
                return self._send_json({"id": name, "sha": sha, "siblings": siblings}, with_body)
            if api and parts[2] == "tree":
                rows = [
                    {"type": "file", "path": file, "size": len(x), "oid": _etag(x)}
                    for file, x in files.items()
                ]
                return self._send_json(rows, with_body)
            if api or parts[3] not in ("main", "v1", sha):
                return self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            file = "/".join(parts[4:])
            if file not in files:
                return self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return self._send_file(file, files[file], sha, with_body)

        def _send_file(self, file: str, content: bytes, sha: str, with_body: bool):
            start = 0
            if "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers = {
                "X-Repo-Commit": sha,
                "ETag": f'"{_etag(content)}"',
                "Accept-Ranges": "bytes",
            }
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:]
            cuts = with_body and file in hub.cut
            if cuts:
                hub.cut.discard(file)
            self.send_response(206 if start else 200)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body[: len(body) // 2] if cuts else body)
            if cuts:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)

        def _send_json(self, content, with_body: bool):
            return self._send(json.dumps(content).encode(), 200, {}, with_body)

        def _send(self, body: bytes, status: int, headers, with_body: bool = True):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body and self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
