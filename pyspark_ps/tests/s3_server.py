"""An S3 that runs here (moto's server) and misbehaves when it is told to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ACCESS_KEY = "the-access-key"
SECRET_KEY = "the-secret-key-that-nobody-may-see"


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    matches: Callable[[str, str], bool]
    status: int = 0
    code: str = ""
    seconds: float = 0.0
    times: int = 1 << 30


class S3Server:
    """Its endpoint, the requests it has seen, and faults to inject."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        """(method, path with query) of each."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def credentials(self) -> dict[str, str]:
        """As `open_location` takes a configuration."""
        return {
            "endpoint_url": self.endpoint,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
        }

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that lead here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def client(self) -> Any:
        """A boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def make_bucket(self, name: str) -> str:
        """Its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def seen(self, method: str, containing: str = "") -> list[str]:
        """Paths of the requests of that method."""
        with self._lock:
            return [path for verb, path in self.requests if verb == method and containing in path]

    @contextmanager
    def fault(
        self,
        method: str,
        containing: str,
        status: int = 0,
        code: str = "",
        seconds: float = 0.0,
        times: int = 1 << 30,
    ) -> Iterator[None]:
        """Answers of `status` and `code`, or answers `seconds` late, while the block runs."""
        fault = Fault(
            lambda verb, path: verb == method and containing in path, status, code, seconds, times
        )
        with self._lock:
            self._faults.append(fault)
        try:
            yield
        finally:
            with self._lock:
                self._faults.remove(fault)

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        query = environ.get("QUERY_STRING", "")
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        with self._lock:
            self.requests.append((method, path))
            found = next((f for f in self._faults if f.times > 0 and f.matches(method, path)), None)
            if found is not None:
                found.times -= 1
        if found is not None:
            time.sleep(found.seconds)
            if found.status:
                return _refuse(environ, start_response, found)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _refuse(environ: dict[str, Any], start_response: Any, fault: Fault) -> Iterable[bytes]:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"].read(length)
    body = (
        f"<?xml version='1.0'?><Error><Code>{fault.code}</Code>"
        f"<Message>injected {fault.code}</Message></Error>"
    ).encode()
    if environ["REQUEST_METHOD"] == "HEAD":
        body = b""
    start_response(
        f"{fault.status} injected",
        [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))],
    )
    return [body]
