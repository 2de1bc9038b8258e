"""A place in any storage: a path or URL, and how it is reached."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pyspark_ps.errors import InvalidArgumentError, StorageError
from pyspark_ps.storage.backend import ArrowBackend, Backend, Entry, LocalBackend, Output
from pyspark_ps.storage.s3_options import S3Options

if TYPE_CHECKING:
    from pyspark_ps.utils.config import PSConfig

S3_SCHEMES = ("s3", "s3a", "s3n")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_USER = re.compile(r"(?<=://)[^/@]*@")


class Location:
    """A folder or file in some storage; made by `open_location`.

    It names a place and opens nothing by itself. Picklable, and `to_dict` is JSON: another process
    opens the same place with the same credentials, which are in there; they are kept out of `repr`.
    Names given to its methods are relative, with "/". Safe to share between threads.
    """

    def __init__(self, url: str, path: str, s3: S3Options | None = None) -> None:
        """`url` as the user wrote it, `path` inside the storage ("/a/b", "bucket/a/b")."""
        self.url = url
        self.path = path
        self._s3 = s3
        self._backend: tuple[int, Backend] | None = None

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    def __str__(self) -> str:
        return _USER.sub("***@", self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": None}

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold, credentials included: for authenticated channels only."""
        s3 = None if self._s3 is None else self._s3.to_dict()
        return {"url": self.url, "path": self.path, "s3": s3}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Location:
        """The inverse of `to_dict`."""
        s3 = values.get("s3")
        return cls(values["url"], values["path"], None if s3 is None else S3Options.from_dict(s3))

    @property
    def backend(self) -> Backend:
        """The storage; made anew after a fork, which its connections do not survive."""
        if self._backend is None or self._backend[0] != os.getpid():
            self._backend = (os.getpid(), self._make_backend())
        return self._backend[1]

    def _make_backend(self) -> Backend:
        if self._s3 is not None:
            return _s3_backend(os.getpid(), self._s3)
        if self.path.startswith("/") and _scheme(self.url) in ("", "file"):
            return LocalBackend()
        return ArrowBackend(_arrow_filesystem(self.url)[0])

    @property
    def filesystem(self) -> Any:
        """A `pyarrow.fs.FileSystem`; `path` is the path inside it."""
        return self.backend.filesystem

    def child(self, name: str) -> Location:
        """The place of that name below this one."""
        child = Location(_joined(self.url, name), _joined(self.path, name), self._s3)
        child._backend = self._backend
        return child

    def size(self, name: str = "") -> int:
        """Bytes of a file.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it cannot be read.
        """
        return self.backend.size(_joined(self.path, name))

    def open_input(self, name: str = "") -> Any:
        """A pyarrow NativeFile with random access; errors as `size`."""
        return self.backend.open_input(_joined(self.path, name))

    def drop_cached(self, name: str, begin: int, end: int) -> None:
        """A hint: nobody will soon read bytes [begin, end) of a file again."""
        self.backend.drop_cached(_joined(self.path, name), begin, end)

    def errors(self, action: str, name: str = "") -> AbstractContextManager[None]:
        """Turns what an open file raises into NotFoundError and StorageError naming the place."""
        return self.backend.errors(action, _joined(self.path, name))

    def open_output(self, name: str = "") -> Output:
        """A new file, streamed; it counts when its `close` has returned.

        Raises:
            StorageError: it cannot be written.
        """
        return self.backend.open_output(_joined(self.path, name))

    def read(self, name: str = "") -> tuple[bytes, str]:
        """A small file whole, and the version that `put` takes; errors as `size`."""
        return self.backend.read(_joined(self.path, name))

    def put(self, name: str, data: bytes, expected: str | None = None) -> None:
        """Writes a small file at once, if the version there is the expected one (`Backend.put`).

        Raises:
            StorageError: it cannot be written, or another version is there.
        """
        self.backend.put(_joined(self.path, name), data, expected)

    def entries(self, name: str = "") -> Iterator[Entry]:
        """Every file below, at any depth, with paths relative to `name`; none for no folder.

        Raises:
            StorageError: the place cannot be listed.
        """
        return self.backend.entries(_joined(self.path, name))

    def delete(self, names: Iterable[str]) -> None:
        """Files; one that is not there is no error.

        Raises:
            StorageError: one could not be deleted.
        """
        self.backend.delete(_joined(self.path, name) for name in names)

    def drop_unfinished(self, is_dead: Callable[[str], bool]) -> None:
        """Uploads below that nobody will complete, told by their relative names."""
        self.backend.drop_unfinished(self.path, is_dead)

    def remove_empty_folders(self) -> None:
        """This folder and those below it, as far as they hold no file."""
        self.backend.remove_empty_folders(self.path)


def open_location(
    path_or_url: str | os.PathLike[str],
    config: PSConfig | Mapping[str, Any] | None = None,
    spark_hadoop: Mapping[str, str] | None = None,
) -> Location:
    """The place that a path or URL names. Nothing is contacted.

    Args:
        path_or_url: a plain path, file://, s3://, s3a:// or s3n://, or any URL that
            `pyarrow.fs.FileSystem.from_uri` knows.
        config: for S3, a PSConfig, or a dict of endpoint_url, region, access_key, secret_key,
            session_token.
        spark_hadoop: for S3, Hadoop's settings (`fs.s3a.*`), as Spark has them; what `config`
            leaves open is looked for there, then in the environment (`S3Options.resolve`).

    Raises:
        InvalidArgumentError: an empty path, credentials in an S3 URL, a missing bucket.
        StorageError: a scheme that pyarrow does not know.
    """
    url = os.fspath(path_or_url)
    if not url.strip():
        raise InvalidArgumentError("path = '': allowed is a folder, a file or a URL")
    scheme = _scheme(url)
    if scheme == "":
        return Location(url.rstrip("/") or "/", os.path.abspath(url))
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise InvalidArgumentError(
                f"{url!r} names the host {parts.netloc!r}: write file:///path for this machine"
            )
        return Location(url.rstrip("/"), os.path.abspath(unquote(parts.path) or "/"))
    if scheme in S3_SCHEMES:
        inner = url.split("://", 1)[1].strip("/")
        bucket = inner.partition("/")[0]
        if not bucket:
            raise InvalidArgumentError(f"{url!r} names no bucket: write {scheme}://bucket/path")
        if "@" in bucket:
            raise InvalidArgumentError(
                f"{_USER.sub('***@', url)!r}: credentials in a URL are refused; hand them over by "
                "the environment or fs.s3a.access.key and fs.s3a.secret.key"
            )
        return Location(url.rstrip("/"), inner, S3Options.resolve(bucket, config, spark_hadoop))
    return Location(url.rstrip("/"), _arrow_filesystem(url)[1].rstrip("/"))


@functools.lru_cache(maxsize=8)
def _s3_backend(process: int, options: S3Options) -> Backend:
    """One for all places reached in the same way: a client takes 0.3 s to make."""
    from pyspark_ps.storage.s3_backend import S3Backend

    return S3Backend(options)


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return found.group().lower() if found else ""


def _arrow_filesystem(url: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow import fs

    shown = _USER.sub("***@", url)
    try:
        filesystem, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).replace(url, shown)
        raise StorageError(
            f"cannot reach {shown!r}: {reason}; paths, file://, s3://, s3a:// and what "
            "pyarrow.fs knows are taken"
        ) from None
    return filesystem, str(path)


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if name else folder
