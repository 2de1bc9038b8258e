"""What a storage must be able to do, and the two general ones: local folders and pyarrow.fs."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyspark_ps.errors import NotFoundError, StorageError

if TYPE_CHECKING:
    import pyarrow.fs

FLUSH_BYTES = 16 << 20  # of a local file, written before the disk is set to work
ABSENT = "absent"
"""As `expected` of `Backend.put`: no file may be there."""


class Entry(NamedTuple):
    """A file found below a folder; `path` is relative to the folder."""

    path: str
    size: int


class Output(Protocol):
    """A new file being written. It counts when `close` has returned, and not before."""

    def write(self, data: Any) -> int: ...

    def close(self) -> None: ...

    def abort(self) -> None:
        """Drops what was written, as far as that is possible; never raises."""


class Backend(Protocol):
    """One storage. Paths are the storage's own ("/a/b", "bucket/a/b"). Safe to share by threads.

    Every method raises NotFoundError for what is not there and StorageError for what cannot be
    read or written; messages name the place and hold no credentials.
    """

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """For pyarrow's own readers."""

    def errors(self, action: str, path: str) -> AbstractContextManager[None]:
        """Turns what using an open file raises into this storage's errors: "cannot <action>"."""

    def size(self, path: str) -> int: ...

    def open_input(self, path: str) -> Any:
        """A pyarrow NativeFile with random access."""

    def drop_cached(self, path: str, begin: int, end: int) -> None:
        """A hint, never an error: nobody will soon read bytes [begin, end) of the file again."""

    def open_output(self, path: str) -> Output: ...

    def read(self, path: str) -> tuple[bytes, str]:
        """The whole file, and a version that `put` understands."""

    def put(self, path: str, data: bytes, expected: str | None = None) -> None:
        """Writes a small file at once: readers see the old one or the new one.

        Args:
            expected: the version that `read` gave for the file now there, ABSENT, or None = any.

        Raises:
            StorageError: another version is there; nothing was written.
        """

    def entries(self, folder: str) -> Iterator[Entry]:
        """Every file below a folder, at any depth; nothing when there is no such folder."""

    def delete(self, paths: Iterable[str]) -> None:
        """Files; one that is not there is no error."""

    def drop_unfinished(self, folder: str, is_dead: Callable[[str], bool]) -> None:
        """Frees what uploads below a folder, begun and never completed, take up unseen.

        Args:
            is_dead: told the path relative to the folder; True = drop it.
        """

    def remove_empty_folders(self, folder: str) -> None:
        """Folders below and at `folder` that hold no file, where a storage has folders."""


def overtaken(path: str) -> StorageError:
    """The error of a conditional put that found another version."""
    return StorageError(
        f"{path} was written by another save in the meantime; that one stands, this one was "
        "dropped: let one job at a time save to a path"
    )


@contextlib.contextmanager
def os_errors(action: str, path: str) -> Iterator[None]:
    """Turns an OSError into NotFoundError or StorageError naming the place."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot {action} {path}: there is no such file") from error
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot {action} {path}: {reason}") from error


class LocalBackend:
    """Folders of this machine, mounted ones too. A file is flushed to the disk before it counts."""

    def __init__(self) -> None:
        self._filesystem: Any = None

    @property
    def filesystem(self) -> Any:
        if self._filesystem is None:
            from pyarrow import fs

            self._filesystem = fs.LocalFileSystem()
        return self._filesystem

    def errors(self, action: str, path: str) -> AbstractContextManager[None]:
        return os_errors(action, path)

    def size(self, path: str) -> int:
        with os_errors("read", path):
            return os.stat(path).st_size

    def open_input(self, path: str) -> Any:
        with os_errors("read", path):
            return self.filesystem.open_input_file(path)

    def drop_cached(self, path: str, begin: int, end: int) -> None:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)

    def open_output(self, path: str) -> Output:
        with os_errors("write", path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return _LocalOutput(path)

    def read(self, path: str) -> tuple[bytes, str]:
        with os_errors("read", path), open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return file.read(), f"{status.st_ino}-{status.st_mtime_ns}"

    def put(self, path: str, data: bytes, expected: str | None = None) -> None:
        folder = os.path.dirname(path)
        temporary = f"{path}.{secrets.token_hex(8)}.tmp"
        with os_errors("write", path):
            os.makedirs(folder, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if expected == ABSENT:
                    _publish_new(temporary, path)
                else:
                    if expected is not None and self.read(path)[1] != expected:
                        raise overtaken(path)
                    os.replace(temporary, path)
            except FileExistsError as error:
                raise overtaken(path) from error
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            _sync_folder(folder)

    def entries(self, folder: str) -> Iterator[Entry]:
        def fail(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise StorageError(f"cannot list {folder}: {error.strerror}") from error

        for here, _, names in os.walk(folder, onerror=fail):
            for name in names:
                path = os.path.join(here, name)
                with contextlib.suppress(FileNotFoundError):
                    yield Entry(os.path.relpath(path, folder), os.stat(path).st_size)

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(NotFoundError), os_errors("delete", path):
                os.unlink(path)

    def drop_unfinished(self, folder: str, is_dead: Callable[[str], bool]) -> None:
        """Nothing: unfinished files are seen here."""

    def remove_empty_folders(self, folder: str) -> None:
        for here, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(here)


def _publish_new(temporary: str, path: str) -> None:
    """Gives a file its name; FileExistsError where that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.exists(path):
            raise FileExistsError(path) from None
        os.replace(temporary, path)


class _LocalOutput:
    def __init__(self, path: str) -> None:
        self._path = path
        self._written = 0
        self._flushing = 0  # bytes from the start that the system was told to bring to the disk
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by close or abort

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        with os_errors("write", self._path):
            while done < len(view):
                done += self._file.write(view[done:])
        self._written += done
        if self._written - self._flushing >= FLUSH_BYTES:
            self._begin_flush()
        return done

    def _begin_flush(self) -> None:
        """The disk works from now on, not only when `close` waits for it. Dirty pages that are not
        needed any more are written, and stay; the bytes told of before are left alone."""
        stretch = self._flushing, self._written - self._flushing
        with contextlib.suppress(OSError):  # a hint
            os.posix_fadvise(self._file.fileno(), *stretch, os.POSIX_FADV_DONTNEED)
        self._flushing = self._written

    def close(self) -> None:
        with os_errors("write", self._path), self._file:
            os.fsync(self._file.fileno())
        _sync_folder(os.path.dirname(self._path))

    def abort(self) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _sync_folder(folder: str) -> None:
    """Makes new names in a folder survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class ArrowBackend:
    """Whatever else `pyarrow.fs` reaches (hdfs://, gs://, abfs://, ...)."""

    def __init__(self, filesystem: pyarrow.fs.FileSystem) -> None:
        self._filesystem = filesystem

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        return self._filesystem

    def errors(self, action: str, path: str) -> AbstractContextManager[None]:
        return os_errors(action, path)

    def size(self, path: str) -> int:
        with os_errors("read", path):
            info = self._filesystem.get_file_info(path)
        if not info.is_file:
            raise NotFoundError(f"cannot read {path}: there is no such file")
        return int(info.size)

    def open_input(self, path: str) -> Any:
        with os_errors("read", path):
            return self._filesystem.open_input_file(path)

    def drop_cached(self, path: str, begin: int, end: int) -> None:
        """Nothing: `pyarrow.fs` has no way to say so."""

    def open_output(self, path: str) -> Output:
        with os_errors("write", path):
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            return _ArrowOutput(self._filesystem, path)

    def read(self, path: str) -> tuple[bytes, str]:
        with os_errors("read", path):
            info = self._filesystem.get_file_info(path)
            with self._filesystem.open_input_file(path) as file:
                return file.read(), f"{info.mtime_ns}-{info.size}"

    def put(self, path: str, data: bytes, expected: str | None = None) -> None:
        """As promised, but the check and the write are two steps here."""
        with os_errors("write", path):
            there = self._filesystem.get_file_info(path).is_file
            if expected is not None:
                found = self.read(path)[1] if there else ABSENT
                if found != expected:
                    raise overtaken(path)
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            temporary = f"{path}.{secrets.token_hex(8)}.tmp"
            with self._filesystem.open_output_stream(temporary) as file:
                file.write(data)
            self._filesystem.move(temporary, path)

    def entries(self, folder: str) -> Iterator[Entry]:
        from pyarrow import fs

        with os_errors("list", folder):
            found = self._filesystem.get_file_info(
                fs.FileSelector(folder, recursive=True, allow_not_found=True)
            )
        root = folder.rstrip("/") + "/"
        for info in found:
            if info.is_file:
                yield Entry(info.path.removeprefix(root), int(info.size))

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(NotFoundError), os_errors("delete", path):
                self._filesystem.delete_file(path)

    def drop_unfinished(self, folder: str, is_dead: Callable[[str], bool]) -> None:
        """Nothing: `pyarrow.fs` has no way to ask."""

    def remove_empty_folders(self, folder: str) -> None:
        from pyarrow import fs

        with os_errors("delete", folder):
            if self._filesystem.get_file_info(folder).type != fs.FileType.Directory:
                return
            inside = self._filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
            folders = [info.path for info in inside if info.type == fs.FileType.Directory]
            for path in sorted([*folders, folder], key=len, reverse=True):
                if not self._filesystem.get_file_info(fs.FileSelector(path)):
                    self._filesystem.delete_dir(path)


class _ArrowOutput:
    def __init__(self, filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._file = filesystem.open_output_stream(path)

    def write(self, data: Any) -> int:
        with os_errors("write", self._path):
            self._file.write(data)
        return memoryview(data).nbytes

    def close(self) -> None:
        with os_errors("write", self._path):
            self._file.close()

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(Exception):
            self._filesystem.delete_file(self._path)
