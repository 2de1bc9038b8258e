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
    """Distinct keys in order of first occurrence (U,), and each key's position among them (N,)."""

def gather_rows(
    matrix: NDArray[np.float32],
    lookups: Sequence[
        tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64] | None, int]
    ],
) -> None:
    """Writes rows into columns of `matrix` (B, W), which is C-contiguous.

    lookups: (rows (U, dim), positions, offsets, first column). Without offsets positions (B,) name
    the row of each sample; with offsets (B + 1,) sample i gets the mean of the rows named by
    positions[offsets[i]:offsets[i + 1]], zeros where there are none."""

def sum_rows(
    matrix: NDArray[np.float32],
    lookups: Sequence[
        tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64] | None, int]
    ],
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
        "coordinator": "host:port", "timeout_seconds", "batch_size", "max_message_size",
        "transport", "compression"}. Connects."""

    def definition(self) -> str: ...  # ClusterDefinition as JSON
    def refresh(self) -> None: ...
    def pull(
        self,
        rows: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.float32], bool]],
        tensors: Sequence[int],
    ) -> list[NDArray[np.float32]]:
        """rows: (table id, keys (n,), out (n, dim) C-contiguous writable, create); tensors: ids.

        The tensors' values in C order, flat and read-only: the client's own copy, the same memory
        as last time when nothing has changed."""

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
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...

class Server:
    # options: field names of ServerOptions. Starts.
    def __init__(self, options_json: str, secret: bytes) -> None: ...
    @property
    def port(self) -> int: ...
    @property
    def unix_path(self) -> str: ...
    @property
    def incarnation(self) -> int: ...
    def wait_ended(self, timeout_seconds: float) -> str | None: ...
    def stop(self, grace_seconds: float) -> None: ...
    def stats(self) -> str: ...

class Coordinator:
    # options: field names of CoordinatorOptions. Starts.
    def __init__(self, options_json: str, secret: bytes) -> None: ...
    @property
    def address(self) -> str: ...
    def wait_running(self, timeout_seconds: float) -> None: ...
    def servers(self) -> str: ...  # JSON list of records
    def definition(self) -> str: ...
    def stop_servers(self, grace_seconds: float, timeout_seconds: float) -> None: ...
    def close(self) -> None: ...
