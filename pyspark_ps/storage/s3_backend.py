"""S3 and everything that speaks its protocol.

boto3 lists, deletes, writes (its transfer manager uploads in parts, streamed) and puts manifests
conditionally; pyarrow's own S3 file system, which needs no GIL, reads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pyspark_ps.errors import NotFoundError, StorageError
from pyspark_ps.storage.backend import ABSENT, Entry, Output, overtaken
from pyspark_ps.storage.s3_options import PART_BYTES, S3Options

if TYPE_CHECKING:
    from pyspark_ps.utils.config import PSConfig

_logger = logging.getLogger(__name__)

_DELETE_KEYS_MAX = 1000  # of one request, S3's own limit
_MISSING = ("404", "NoSuchKey", "NotFound")
_REFUSED = ("403", "AccessDenied", "Forbidden")
_BAD_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_RACED = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_UNCONDITIONAL = ("501", "NotImplemented", "UnsupportedOperation")


class S3Backend:
    """One way of reaching S3: endpoint, region, credentials. Paths are "bucket/key".

    Args:
        options: how; a PSConfig or a dict as `S3Options.resolve` takes them also do. None = the
            environment.
    """

    def __init__(self, options: S3Options | PSConfig | Mapping[str, Any] | None = None) -> None:
        if not isinstance(options, S3Options):
            options = S3Options.resolve("", options)
        self._options = options
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]

    @property
    def filesystem(self) -> Any:
        def make() -> Any:
            from pyarrow import fs

            return fs.S3FileSystem(**self._options.arrow_arguments())

        return self._once("filesystem", make)

    @property
    def _client(self) -> Any:
        return self._once("client", self._options.client)

    @property
    def _transfers(self) -> Any:
        def make() -> Any:
            from boto3.s3.transfer import TransferConfig, create_transfer_manager

            config = TransferConfig(
                multipart_threshold=self._options.multipart_threshold,
                multipart_chunksize=PART_BYTES,
                max_concurrency=self._options.max_concurrency,
                preferred_transfer_client="classic",
            )
            # Parts of streams that wait in memory, all uploads together.
            config.max_in_memory_upload_chunks = self._options.max_concurrency
            return create_transfer_manager(self._client, config)

        return self._once("transfers", make)

    def size(self, path: str) -> int:
        bucket, key = _split(path)
        with self.errors("read", path):
            return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])

    def open_input(self, path: str) -> Any:
        with self.errors("read", path):
            return self.filesystem.open_input_file(path)

    def drop_cached(self, path: str, begin: int, end: int) -> None:
        """Nothing: this machine keeps no bytes of it."""

    def open_output(self, path: str) -> Output:
        bucket, key = _split(path)
        return _Upload(self._transfers, bucket, key, lambda: self.errors("write", path))

    def read(self, path: str) -> tuple[bytes, str]:
        bucket, key = _split(path)
        with self.errors("read", path):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            with contextlib.closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]

    def put(self, path: str, data: bytes, expected: str | None = None) -> None:
        from botocore.exceptions import ClientError

        bucket, key = _split(path)
        condition = {}
        if expected is not None:
            condition = {"IfNoneMatch": "*"} if expected == ABSENT else {"IfMatch": expected}
        with self.errors("write", path):
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if not condition or _code(error) not in (*_RACED, *_UNCONDITIONAL):
                    raise
                if _code(error) in _UNCONDITIONAL:  # the store knows no conditions
                    self._client.put_object(Bucket=bucket, Key=key, Body=data)
                # A retry of a request that had arrived meets its own file.
                elif self._client.get_object(Bucket=bucket, Key=key)["Body"].read() != data:
                    raise overtaken(self._shown(path)) from None

    def entries(self, folder: str) -> Iterator[Entry]:
        bucket, key = _split(folder)
        prefix = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
        with self.errors("list", folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # made by consoles to show a folder
                        yield Entry(found["Key"][len(prefix) :], int(found["Size"]))

    def delete(self, paths: Iterable[str]) -> None:
        by_bucket: dict[str, list[str]] = {}
        for path in paths:
            bucket, key = _split(path)
            by_bucket.setdefault(bucket, []).append(key)
        for bucket, keys in by_bucket.items():
            for first in range(0, len(keys), _DELETE_KEYS_MAX):
                self._delete_some(bucket, keys[first : first + _DELETE_KEYS_MAX])

    def _delete_some(self, bucket: str, keys: list[str]) -> None:
        request = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with self.errors("delete", f"{bucket}/{keys[0]}"):
            answer = self._client.delete_objects(Bucket=bucket, Delete=request)
        for failed in answer.get("Errors", ()):
            if failed.get("Code") not in _MISSING:
                raise StorageError(
                    f"cannot delete {self._shown(bucket + '/' + failed.get('Key', ''))}: "
                    f"{failed.get('Code')} {self._clean(failed.get('Message', ''))}"
                )

    def drop_unfinished(self, folder: str, is_dead: Callable[[str], bool]) -> None:
        """Aborts multipart uploads; where the store or its rights do not allow that, nothing."""
        bucket, key = _split(folder)
        prefix = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
        try:
            with self.errors("list uploads of", folder):
                pages = self._client.get_paginator("list_multipart_uploads").paginate(
                    Bucket=bucket, Prefix=prefix
                )
                for upload in (found for page in pages for found in page.get("Uploads", ())):
                    if is_dead(upload["Key"].removeprefix(prefix)):
                        self._client.abort_multipart_upload(
                            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
        except (StorageError, NotFoundError) as error:
            _logger.info("unfinished uploads stay: %s", error)

    def remove_empty_folders(self, folder: str) -> None:
        """Nothing: S3 has no folders."""

    def _shown(self, path: str) -> str:
        return f"s3://{path}"

    def _clean(self, text: str) -> str:
        for secret in self._options.secrets:
            text = text.replace(secret, "***")
        return text

    def _where(self) -> str:
        return self._options.endpoint_url or f"AWS, region {self._options.region}"

    @contextlib.contextmanager
    def errors(self, action: str, path: str) -> Iterator[None]:
        """Turns what boto3 and pyarrow raise into NotFoundError and StorageError."""
        import pyarrow as pa
        from botocore.exceptions import BotoCoreError, ClientError

        what = f"cannot {action} {self._shown(path)} (at {self._where()})"
        try:
            yield
        except (StorageError, NotFoundError):
            raise
        except FileNotFoundError:
            raise NotFoundError(f"{what}: there is no such file") from None
        except ClientError as error:
            raise self._of_client(what, path, error) from None
        except (BotoCoreError, OSError, pa.ArrowException) as error:
            raise self._of_others(what, path, error) from None

    def _of_client(self, what: str, path: str, error: Any) -> Exception:
        code, bucket = _code(error), path.partition("/")[0]
        if code == "NoSuchBucket":
            return StorageError(f"{what}: there is no bucket {bucket!r}: {_CHECK_PLACE}")
        if code in _MISSING:
            return NotFoundError(f"{what}: there is no such file")
        if code in _REFUSED:
            return StorageError(f"{what}: {code}: {_ask_for_rights(bucket)}")
        if code in _BAD_KEYS:
            return StorageError(f"{what}: {code}: {_CHECK_KEYS}")
        if code in _WRONG_REGION:
            return StorageError(f"{what}: {code}: {_CHECK_REGION}")
        message = self._clean(error.response.get("Error", {}).get("Message", ""))
        return StorageError(f"{what}: {code} {message}".rstrip())

    def _of_others(self, what: str, path: str, error: Exception) -> StorageError:
        kind, text = type(error).__name__, self._clean(str(error))
        bucket = path.partition("/")[0]
        if "NO_SUCH_BUCKET" in text:
            return StorageError(f"{what}: there is no bucket {bucket!r}: {_CHECK_PLACE}")
        if "ACCESS_DENIED" in text:
            return StorageError(f"{what}: AccessDenied: {_ask_for_rights(bucket)}")
        if kind in ("NoCredentialsError", "PartialCredentialsError"):
            return StorageError(f"{what}: no credentials were found: {_CHECK_KEYS}")
        if any(word in text for word in ("HTTP status 301", *_WRONG_REGION[1:])):
            return StorageError(f"{what}: {_CHECK_REGION}: {text}")
        if kind in _UNREACHABLE or "NETWORK_CONNECTION" in text:
            return StorageError(
                f"{what}: nothing answers there ({kind}): check s3_endpoint_url "
                "(fs.s3a.endpoint, AWS_ENDPOINT_URL) and the network"
            )
        return StorageError(f"{what}: {text}")


_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "SSLError",
)
_WRONG_REGION = ("301", "PermanentRedirect", "AuthorizationHeaderMalformed")
_CHECK_REGION = (
    "the bucket is in another region: check s3_region (fs.s3a.endpoint.region, AWS_REGION)"
)
_CHECK_PLACE = "create it, or check its name, s3_endpoint_url and s3_region"
_CHECK_KEYS = (
    "check the credentials in the environment (AWS_ACCESS_KEY_ID, ...), Spark's settings "
    "(fs.s3a.access.key, fs.s3a.secret.key) or the machine's role"
)


def _ask_for_rights(bucket: str) -> str:
    return (
        "the credentials in use need s3:ListBucket, s3:GetObject, s3:PutObject and "
        f"s3:DeleteObject on bucket {bucket!r}"
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


class _Upload:
    """A file written piece by piece while the transfer manager uploads it.

    The bytes go through a kernel pipe, which holds little: a writer faster than the network
    waits. The object appears when the upload is completed, never in part.
    """

    def __init__(self, transfers: Any, bucket: str, key: str, errors: Callable[[], Any]) -> None:
        self._errors = errors
        read_end, write_end = os.pipe()
        self._source = _PipeEnd(read_end)
        self._sink = open(write_end, "wb", buffering=0)  # noqa: SIM115 - closed by close or abort
        self._future = transfers.upload(self._source, bucket, key, subscribers=[self._source])

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self._sink.write(view[done:])
        except BrokenPipeError:  # the upload has failed
            self.close()
            raise
        return done

    def close(self) -> None:
        self._sink.close()
        with self._errors():
            self._future.result()

    def abort(self) -> None:
        self._source.aborted = True
        self._sink.close()
        with contextlib.suppress(BaseException):
            self._future.result()


class _Aborted(Exception):
    """Ends an upload whose writer gave up."""


class _PipeEnd:
    """What the transfer manager reads from; it closes itself when the upload has ended."""

    def __init__(self, number: int) -> None:
        self._file = open(number, "rb")  # noqa: SIM115 - closed by on_done
        self.aborted = False

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if self.aborted:
            raise _Aborted
        return data

    def on_done(self, future: Any, **_: Any) -> None:
        self._file.close()
