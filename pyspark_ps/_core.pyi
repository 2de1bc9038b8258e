"""The C++ core as Python sees it. Internal: users import `pyspark_ps`.

Functions raise the classes of `pyspark_ps.errors`, one for each status code of the core. Calls that
wait release the GIL. Importing the module starts no thread and opens no socket.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__version__: str
NULL_KEY: int

def hash_strings(
    offsets: NDArray[np.int64] | NDArray[np.int32], data: NDArray[np.uint8]
) -> NDArray[np.uint64]:
    """Stable hash of n strings given as Arrow lays them out: n+1 offsets into UTF-8 bytes."""

def hash_bytes(data: bytes) -> int: ...
def hash_objects(objects: Sequence[object] | NDArray[np.object_]) -> NDArray[np.uint64]:
    """Keys of Python objects: int, bool, str, bytes, None, NumPy's and Arrow's scalars of these.

    InvalidArgumentError names position and value of the first that is none of them."""

def unique(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Distinct keys, ascending (U,), and each key's position among them (N,)."""

def gather_rows(
    matrix: NDArray[np.float32],
    lookups: Sequence[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64] | None, int]],
) -> None:
    """Writes rows into columns of `matrix` (B, W), which is C-contiguous.

    lookups: (rows (U, dim), positions, offsets, first column). Without offsets positions (B,) name
    the row of each sample; with offsets (B + 1,) sample i gets the mean of the rows named by
    positions[offsets[i]:offsets[i + 1]], zeros where there are none."""

def sum_rows(
    matrix: NDArray[np.float32],
    lookups: Sequence[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64] | None, int]],
) -> None:
    """The transpose of `gather_rows`: adds columns of `matrix` to the rows, in order of lookups
    and samples; a sample of n positions gives each 1/n."""

def partition_owners(
    server_count: int, virtual_nodes: int, partition_count: int
) -> NDArray[np.uint32]: ...
def optimizer_config(name: str, params: dict[str, float]) -> dict[str, float]:
    """All parameters, defaults filled in; ConfigurationError on unknown names or bad values."""

class Optimizer:
    """An optimizer over rows in NumPy memory: each row of a two-dimensional array is `dim` values
    and the state behind them."""

    def __init__(self, name: str, params: dict[str, float]) -> None:
        """ConfigurationError on an unknown name, unknown parameters or bad values."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> dict[str, float]: ...
    def state_parts(self, dim: int) -> list[tuple[str, int]]:
        """Names and widths of the state's parts, in the order in which they lie in a row."""

    def init_state(self, rows: NDArray[np.float32], dim: int) -> None:
        """Writes the state of rows (n, dim + state) that have just got their values."""

    def apply(self, rows: NDArray[np.float32], grads: NDArray[np.float32]) -> None:
        """Updates rows (n, dim + state) in place by gradients (n, dim)."""

def symbol_origins() -> dict[str, str]:
    """Where a few C library symbols used by this module come from: paths of shared objects."""

class Client:
    def __init__(self, options_json: str, secret: bytes) -> None:
        """options: {"servers": [{"server_id","host","port","unix_path","incarnation"}],
        "coordinator": "host:port", "tls_fingerprint" ("" = no TLS), "timeout_seconds",
        "driver_silence_seconds", "batch_size", "max_message_size", "transport", "compression"}.
        Connects."""

    def definition(self) -> str: ...  # ClusterDefinition as JSON
    def refresh(self) -> None: ...
    def pull(
        self,
        rows: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.float32], bool]],
        tensors: Sequence[int],
        if_present: bool = False,
    ) -> list[NDArray[np.float32] | None]:
        """rows: (table id, keys (n,), out (n, dim) C-contiguous writable, create); tensors: ids.

        The tensors' values in C order, flat and read-only: the client's own copy, the same memory
        as last time when nothing has changed. With `if_present` a tensor that has no values yet is
        None; without it NotFoundError."""

    def push(
        self,
        rows: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.float32]]],
        tensors: Sequence[tuple[int, NDArray[np.float32], bool, bool]],
        stream: int = 0,
        sequence: int = 0,
        rate_scale: float = 1.0,
    ) -> None:
        """rows: (table id, keys (n,), grads (n, dim)); tensors: (tensor id, flat values, assign,
        only_if_absent). NaN and infinite values: InvalidArgumentError naming table or tensor and
        position, nothing sent."""

    def control_all(self, request_json: str, once: bool = False) -> list[str]: ...
    def control_server(self, server: int, request_json: str, once: bool = False) -> str: ...
    def control_coordinator(self, request_json: str) -> str: ...
    def wait_at_coordinator(self, request_json: str, timeout_seconds: float) -> str:
        """A request that is answered when something has happened; `close` ends the wait."""

    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...

class EmbeddingRows:
    """One table's rows in this process. Each call is atomic under the GIL."""

    def __init__(
        self,
        name: str,
        dim: int,
        init: str,
        init_scale: float,
        optimizer: str,
        params: dict[str, float],
        seed: int,
        rows_max: int,
    ) -> None: ...
    def gather(self, keys: NDArray[np.uint64], out: NDArray[np.float32], create: bool) -> None: ...
    def apply(self, keys: NDArray[np.uint64], grads: NDArray[np.float32]) -> None:
        """keys: distinct."""

    def set(
        self,
        keys: NDArray[np.uint64],
        counts: NDArray[np.float32],
        last_days: NDArray[np.uint32],
        values: NDArray[np.float32],
        states: NDArray[np.float32],
    ) -> None:
        """states: (n, state), or (n, 0) for a fresh state."""

    def remove(self, keys: NDArray[np.uint64]) -> int: ...
    def counts(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]: ...
    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]: ...
    def decay(self, factor: float) -> None: ...
    def prune(self, min_count: float) -> int: ...
    def clear(self) -> None: ...
    def rows(
        self,
    ) -> tuple[
        NDArray[np.uint64],
        NDArray[np.float32],
        NDArray[np.uint32],
        NDArray[np.float32],
        NDArray[np.float32],
    ]:
        """(keys, counts, last days, values flat, states flat) of all rows, in no order."""

    def stats(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...

class WeightChunks:
    """Dense tensors by name, cut into chunks as on a server. Each call is atomic under the GIL."""

    def __init__(self, optimizer: str, params: dict[str, float], seed: int) -> None: ...
    def init(self, name: str, floats: int, init: str, scale: float) -> None: ...
    def assign(self, name: str, values: NDArray[np.float32]) -> None: ...
    def restore(
        self, name: str, values: NDArray[np.float32], state: NDArray[np.float32]
    ) -> None: ...
    def apply(self, name: str, grad: NDArray[np.float32]) -> None: ...
    def remove(self, name: str) -> None: ...
    def values(self, name: str) -> NDArray[np.float32]: ...
    def state(self, name: str) -> NDArray[np.float32]: ...
    def version(self, name: str) -> int: ...
    def memory_bytes(self) -> int: ...

class UpdateCounts:
    """Counts by key. Each call is atomic under the GIL."""

    def __init__(self, default_count: float) -> None: ...
    def add(self, keys: NDArray[np.uint64], by: float) -> None: ...
    def get(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]: ...
    def set(self, key: int, count: float) -> None: ...
    def contains(self, key: int) -> bool: ...
    def remove(self, key: int) -> bool: ...
    def decay(self, factor: float) -> None: ...
    def prune(self, min_count: float) -> NDArray[np.uint64]: ...
    def all(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...

def make_certificate() -> tuple[str, str]:
    """A new certificate that signed itself, and its private key; both PEM."""

def certificate_fingerprint(certificate: str) -> str:
    """SHA-256 of the (first) PEM certificate, hexadecimal.

    ConfigurationError: there is none, or it has expired or is not valid yet."""

def check_certificate_key(certificate: str, key: str) -> None:
    """ConfigurationError when a server cannot serve with them, saying why."""

class Server:
    # options: field names of ServerOptions; log_level is "debug" .. "error" or "off". certificate
    # and key are PEM; both "": no TLS. Starts.
    def __init__(
        self, options_json: str, secret: bytes, certificate: str = "", key: str = ""
    ) -> None: ...
    @property
    def port(self) -> int: ...
    @property
    def unix_path(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    def wait_ended(self, timeout_seconds: float) -> str | None: ...
    def stop(self, grace_seconds: float) -> None: ...
    def stats(self) -> str: ...
    def checkpoints(self) -> Checkpoints: ...

class RecordStream:
    """Record batches of the core, for whoever takes Arrow streams (`pyarrow`, DuckDB, Polars). To
    be taken once."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...

class RowGroupWriter:
    """Packs row groups of a Parquet file, each column as one page. Thread-safe, one call after the
    other.

    Args:
        columns: of each its path in the schema, the number of its physical type, bytes of a value,
            values of a row, and whether it is sorted, which gives it statistics.
        codec: Parquet's number: 0 none, 6 zstd at level 1, 7 lz4.
    """

    def __init__(
        self, columns: list[tuple[list[str], int, int, int, bool]], codec: int
    ) -> None: ...
    def write(
        self, values: list[NDArray[np.uint8]], rows: int, position: int, ordinal: int
    ) -> tuple[NDArray[np.uint8], bytes]:
        """A row group's bytes, and what the file's footer says of it. The memory of the bytes is
        used again by the next call once the array is gone.

        Args:
            values: of each column, bytes[rows * values of a row * bytes of a value].
            rows: at least 1.
            position: of the row group in the file.
            ordinal: its number in the file.

        Raises:
            InvalidArgumentError: other sizes than these, or a column of 1 GiB.
        """

class RowGroupReader:
    """Unpacks what RowGroupWriter packed. Thread-safe.

    Args:
        columns: as RowGroupWriter's; which one is sorted does not matter.
    """

    def __init__(self, columns: list[tuple[list[str], int, int, int, bool]]) -> None: ...
    def read(
        self,
        data: NDArray[np.uint8],
        page_bytes: list[int],
        codec: int,
        rows: int,
        out: NDArray[np.uint8],
        places: list[int],
    ) -> bool:
        """Puts the values of each column into `out`; False when a page was made otherwise.

        Args:
            data: the row group, from its first page on.
            page_bytes: of each column's page, header included, as the file's footer tells.
            places: of each column's values in `out`; -1 leaves the column out.

        Raises:
            DataCorruptionError: a page cannot be unpacked.
            InvalidArgumentError: `out` has no room for a column.
        """

class Checkpoints:
    """What the process around a server does its checkpoint jobs with. Thread-safe."""

    def take(self, timeout_seconds: float) -> tuple[str, str] | None:
        """Name and task (JSON) of the next job; None on time-out."""

    def report(self, job: str, progress_json: str) -> bool:
        """Says how far the job is; False: it was cancelled, or the server ends."""

    def finish(self, job: str, result_json: str) -> None: ...
    def fail(self, job: str, error_class: str, message: str) -> None: ...
    def definition(self) -> str: ...  # ClusterDefinition as JSON
    def rows(self, table: str, first: int, last: int, states: bool) -> RecordStream:
        """Rows of partitions first .. last-1 that this server holds, by partition: key uint64,
        partition int32, count float32, last_day int32, vector FixedSizeList<float32>[dim], and each
        optimizer state as FixedSizeBinary."""

    def weights(self, states: bool) -> RecordStream:
        """Chunks of dense tensors that lie here: name string, shape list<int64>, offset int64 (of
        the chunk's first float), values list<float32>, version uint64, and each optimizer state as
        list<float32>."""

    def ledger(self) -> RecordStream:
        """The push ledger of this moment: stream uint64, highest uint64, ended uint8, done
        FixedSizeBinary (a bitmap)."""

    def load(self, plan_json: str) -> Load: ...

class Load:
    """Builds beside what the server serves, then takes its place. See checkpoint_loader.h for the
    plan. Streams are anything with `__arrow_c_stream__`. Thread-safe."""

    def add_rows(self, table: str, stream: object) -> int:
        """The number of rows that are this server's; others are passed over."""

    def add_weights(self, stream: object) -> int: ...
    def add_ledger(self, stream: object) -> int: ...
    def check_complete(self) -> None: ...
    def commit(self) -> None: ...

class Coordinator:
    # options: field names of CoordinatorOptions; certificate and key as of Server. Starts.
    def __init__(
        self, options_json: str, secret: bytes, certificate: str = "", key: str = ""
    ) -> None: ...
    @property
    def address(self) -> str: ...
    def wait_running(self, timeout_seconds: float) -> None: ...
    def servers(self) -> str: ...  # JSON list of records
    def definition(self) -> str: ...
    def stop_servers(self, grace_seconds: float, timeout_seconds: float) -> None: ...
    def close(self) -> None: ...
