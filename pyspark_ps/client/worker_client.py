"""The workers' side: pulls rows and dense weights, pushes gradients."""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pyspark_ps import _core
from pyspark_ps.client import barrier
from pyspark_ps.client.definition import Definition
from pyspark_ps.client.gradients import Floats, as_float32, by_table
from pyspark_ps.client.options import checked_config, checked_servers, client_options
from pyspark_ps.communication import ServerInfo
from pyspark_ps.errors import InvalidArgumentError, NotFoundError
from pyspark_ps.keys import keys_of
from pyspark_ps.utils.config import DEFAULT_TABLE, PSConfig, TableConfig

# How long a client waits for the values of weights that another one has just defined.
_FOREIGN_VALUES_SECONDS = 5.0


class PSWorkerClient:
    """A client of a running cluster.

        worker = PSWorkerClient(main_client.get_server_info(), config)
        rows = worker.pull_embeddings(ids)
        ...
        worker.push_gradients({"fc1/kernel": gradient}, (ids, row_gradients))

    Every call does all of its work or raises; shapes, dtypes and finiteness of the whole call are
    checked before anything is sent. A call whose connection breaks is repeated inside its
    deadline (`PSConfig.timeout_seconds`); each server applies a repeated push once.

    Safe to share between threads. After `os.fork` it works on in both processes, each with
    connections of its own. It cannot be pickled, its arguments can: make it where it is used.

    Args:
        server_info: of `PSMainClient.get_server_info()`; `ServerInfo` or their dicts.
        config: the cluster's; timeout, frame sizes, compression and transport are used.
        client_id: a name of this client; None = made of host, process and a random part.

    Raises:
        InvalidArgumentError: arguments that cannot be those of a running cluster.
        PSConnectionError: no server answers.
        AuthenticationError: the servers belong to another job.
    """

    def __init__(
        self,
        server_info: Sequence[ServerInfo | Mapping[str, Any]],
        config: PSConfig | Mapping[str, Any],
        client_id: str | None = None,
    ) -> None:
        self.config = checked_config(config, "PSWorkerClient")
        self.client_id = client_id or (
            f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        )
        self._streams = threading.local()
        self._batches = self._samples = self._loss_samples = 0
        self._loss_sum = 0.0
        self._core = _core.Client(*client_options(checked_servers(server_info), self.config))
        self._definition = Definition.parse(self._core.definition())

    def __enter__(self) -> PSWorkerClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a PSWorkerClient holds connections and cannot be pickled: send server_info and the "
            "config (broadcast them), and make the client where it is used"
        )

    def __repr__(self) -> str:
        return f"PSWorkerClient(client_id={self.client_id!r})"

    def close(self) -> None:
        """Ends all connections once calls under way have ended. May be called again; any other call
        then raises ClosedError."""
        self._core.close()

    # --- pulling

    def pull_embeddings(
        self, ids: Any, table: str | None = None, create_if_missing: bool = True
    ) -> Floats:
        """Rows of the ids.

        Args:
            ids: list, NumPy or Arrow array of n ids (see `keys_of`); they may repeat.
            table: name of the table; None = "default".
            create_if_missing: False = an unknown id gets zeros and no row is made.

        Returns:
            float32 (n, dim), in the order of the ids; the caller's own.

        Raises:
            InvalidArgumentError: ids of another type.
            NotFoundError: the table does not exist.
            ResourceExhaustedError: new rows do not fit; names the servers that refused.
        """
        name = DEFAULT_TABLE if table is None else table
        rows, _ = self.pull({name: keys_of(ids)}, False, create_if_missing)
        return rows[name]

    def pull_model(self, layer_names: Iterable[str] | None = None) -> dict[str, Floats]:
        """Dense weights by name; None = all.

        Returns:
            name -> float32 of the weight's shape; the caller's own.

        Raises:
            NotFoundError: a name that does not exist.
        """
        if isinstance(layer_names, str):
            raise InvalidArgumentError(f"layer_names is a list of names, not {layer_names!r}")
        _, weights = self.pull({}, True if layer_names is None else list(layer_names))
        return {name: value.copy() for name, value in weights.items()}

    def pull(
        self,
        tables: Mapping[str, NDArray[np.uint64]],
        weights: Sequence[str] | bool = False,
        create_if_missing: bool = True,
    ) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Rows of several tables and dense weights, with one request to each server.

        Args:
            tables: name -> uint64 keys, mapped already (see `keys_of`); they may repeat.
            weights: names; True = all that have values (one that another client is defining just
                now has none yet), False = none.
            create_if_missing: as of `pull_embeddings`.

        Returns:
            ({table: float32 (n, dim)}, {weight: float32 of its shape}). A weight's array is
            read-only and shared: one that has not changed since this client's last pull is not sent
            again, and the array is the same memory as then.

        Raises:
            NotFoundError, InvalidArgumentError, ResourceExhaustedError: as `pull_embeddings`.
        """
        if weights is True:
            self._refresh()
        names: list[str] = (
            list(self._definition.weights) if weights is True else list(weights or ())
        )
        definition = self._known(tables, names)
        requests = []
        rows: dict[str, Floats] = {}
        for name, keys in tables.items():
            table = definition.tables[name]
            if not isinstance(keys, np.ndarray) or keys.dtype != np.uint64 or keys.ndim != 1:
                raise InvalidArgumentError(
                    f"table {name!r}: keys must be a uint64 array of one dimension (keys_of makes "
                    "it)"
                )
            rows[name] = np.empty((len(keys), table.dim), np.float32)
            requests.append(
                (table.id, np.ascontiguousarray(keys), rows[name], bool(create_if_missing))
            )
        ids = [definition.weights[name].id for name in names]
        values = self._core.pull(requests, ids, weights is True)
        return rows, {
            name: value.reshape(definition.weights[name].shape)
            for name, value in zip(names, values, strict=True)
            if value is not None
        }

    # --- pushing

    def push_gradients(
        self,
        weight_gradients: Mapping[str, Any] | None,
        embedding_gradients: Any,
        batch_loss: float | None = None,
        batch_size: int = 1,
        *,
        rate_scale: float = 1.0,
    ) -> None:
        """Applies gradients to dense weights and rows; when it returns, they are applied.

        Args:
            weight_gradients: name -> gradient of the weight's shape; None or empty = none.
            embedding_gradients: `{id: gradient (dim,)}` or `(ids, gradients (n, dim))` for the
                table "default", or `{table: (ids, gradients)}`; None or empty = none. Gradients of
                an id that occurs several times are added up first.
            batch_loss, batch_size: loss and rows of the batch; kept in `get_stats()`.
            rate_scale: multiplies the learning rates for this push.

        Raises:
            InvalidArgumentError: a wrong shape or dtype, NaN or infinite values (also after the
                cast to float32); nothing is changed.
            NotFoundError: a weight or table that does not exist; nothing is changed.
            ResourceExhaustedError: new rows do not fit; names the servers that refused.
        """
        loss = _checked_batch(batch_loss, batch_size)
        if not (_is_real(rate_scale) and rate_scale >= 0):
            raise InvalidArgumentError(
                f"rate_scale = {rate_scale!r}: allowed is a finite number >= 0"
            )
        gradients = dict(weight_gradients or {})
        tables = by_table(embedding_gradients)
        definition = self._known(tables, gradients)
        tensors = [
            (definition.weights[name].id, self._flat(definition, name, values), False, False)
            for name, values in gradients.items()
        ]
        rows = []
        for name, (keys, values) in tables.items():
            row_gradients = self._row_gradients(definition, name, keys, values)
            if len(keys):
                rows.append((definition.tables[name].id, keys, row_gradients))
        self._push_numbered(rows, tensors, float(rate_scale))
        self._count(loss, batch_size)

    def push_weight_gradients(
        self,
        weight_gradients: Mapping[str, Any] | None,
        batch_loss: float | None = None,
        batch_size: int = 1,
    ) -> None:
        """`push_gradients` of dense weights alone."""
        self.push_gradients(weight_gradients, None, batch_loss, batch_size)

    def push_embedding_gradients(self, embedding_gradients: Any, table: str | None = None) -> None:
        """`push_gradients` of rows alone.

        Args:
            embedding_gradients: as of `push_gradients`.
            table: whose rows `{id: gradient}` and `(ids, gradients)` mean; None = "default". Not
                together with `{table: (ids, gradients)}`.
        """
        if table is not None:
            names = by_table(embedding_gradients, table)
            if isinstance(embedding_gradients, Mapping) and names and set(names) != {table}:
                raise InvalidArgumentError(
                    f"table={table!r} and gradients that name their tables: give one of the two"
                )
            embedding_gradients = names
        self.push_gradients(None, embedding_gradients)

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Numbers the pushes that this thread makes inside: 0, 1, 2 ... in the stream `name`.

        A server applies each number of a stream once, whoever repeats it: a second client that
        opens the same stream and pushes from 0 again applies only what is missing. So number k
        must mean the same push each time. The number of a push that failed is used again for the
        next one: repeat that push, or end the work.

        Outside of any `stream` a client has a random stream of its own.
        """
        outer = getattr(self._streams, "open", None)
        self._streams.open = [_stream_id(name), 0]
        try:
            yield
        finally:
            self._streams.open = outer

    def end_streams(self, names: Iterable[str]) -> None:
        """Says that the work of these streams is complete: servers give back most of what they
        remember of them, and refuse whatever still comes (an attempt that lost a race)."""
        if isinstance(names, str):
            raise InvalidArgumentError(f"names is a list of names, not {names!r}")
        streams = [str(_stream_id(name)) for name in names]
        if streams:
            self._core.control_all(json.dumps({"op": "end_streams", "streams": streams}))

    # --- definitions

    def define_weights(
        self, weights: Mapping[str, NDArray[Any]], *, overwrite: bool = False
    ) -> list[str]:
        """Makes dense weights with these values where they do not exist yet.

        When several clients define the same weight, the first one's values stay. When this returns,
        all of the weights have values.

        Args:
            weights: name -> finite real values; kept as float32.
            overwrite: also gives existing weights these values, and a fresh optimizer state.

        Returns:
            The names that were made.

        Raises:
            InvalidArgumentError: a wrong dtype, a value that is not finite, or a name that exists
                with another shape; then nothing is changed.
        """
        arrays = {name: _weight_values(name, values) for name, values in weights.items()}
        if not arrays:
            return []
        tensors = [{"name": name, "shape": list(array.shape)} for name, array in arrays.items()]
        # A repeated request (its answer was lost) hears again what it made.
        request = {"op": "define_tensors", "tensors": tensors, "creator": secrets.token_hex(8)}
        reply = self._coordinate(request)
        created = [str(name) for name in reply["created"]]
        self._refresh()
        if overwrite:
            self._assign(arrays, only_if_absent=False)
            return created
        self._assign({name: arrays[name] for name in created}, only_if_absent=True)
        self._await_values({n: a for n, a in arrays.items() if n not in created})
        return created

    def assign_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """New values for dense weights that exist; their optimizer state starts fresh.

        Raises:
            NotFoundError: a name that does not exist.
            InvalidArgumentError: another shape, a wrong dtype, a value that is not finite.
        """
        definition = self._known({}, weights)
        arrays = {name: _weight_values(name, values) for name, values in weights.items()}
        for name, array in arrays.items():
            _check_shape(f"dense weight {name!r}", array.shape, definition.weights[name].shape)
        self._assign(arrays, only_if_absent=False)

    def get_weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all dense weights."""
        self._refresh()
        return {name: weight.shape for name, weight in self._definition.weights.items()}

    def create_table(self, name: str, table_config: TableConfig) -> None:
        """Creates a table on all servers; the same definition again does nothing.

        What `table_config` leaves open comes from this client's config.

        Raises:
            InvalidArgumentError: the table exists with another definition.
            ConfigurationError: `name` or `table_config` is not valid.
        """
        from pyspark_ps.placement.definitions import table_definition

        self.config.check_table_name(name)
        table = table_definition(name, self.config.fill_table(table_config))
        self._coordinate({"op": "create_table", "table": table})
        self._refresh()

    def get_tables(self) -> dict[str, TableConfig]:
        """All tables, their definitions complete."""
        self._refresh()
        return {name: table.config() for name, table in self._definition.tables.items()}

    # --- the rest

    def get_embedding_count(self) -> int:
        """Rows of all tables on all servers."""
        replies = self._core.control_all(json.dumps({"op": "stats"}))
        return sum(int(json.loads(reply)["embeddings"]) for reply in replies)

    def get_stats(self) -> dict[str, float]:
        """What this client has done: `bytes_sent`, `bytes_received`, `retries`, `batches` and
        `samples` pushed, and `mean_loss` over the samples whose loss was told (NaN: none)."""
        mean = self._loss_sum / self._loss_samples if self._loss_samples else math.nan
        return {
            **self._core.stats(),
            "batches": self._batches,
            "samples": self._samples,
            "mean_loss": mean,
        }

    def enter_barrier(self, name: str, timeout_seconds: float | None = None) -> None:
        """Enters a barrier that the driver made, and waits until the driver releases it.

        This client is one member, known by its `client_id`: entering again in the same round (also
        from another process, with the same `client_id`) joins the same wait.

        Args:
            timeout_seconds: None = `PSConfig.timeout_seconds`.

        Raises:
            PSTimeoutError: not released in time; this member has left the barrier.
            NotFoundError: there is no such barrier.
            InvalidArgumentError: all members are in, this one is one too many.
            PSConnectionError: another member died, or the coordinator has gone.
            ClosedError: this client was closed meanwhile.
        """
        seconds = self.config.timeout_seconds if timeout_seconds is None else timeout_seconds
        barrier.enter(self._core, name, self.client_id, seconds)

    # --- inside

    def _refresh(self) -> None:
        self._core.refresh()
        self._definition = Definition.parse(self._core.definition())

    def _known(self, tables: Iterable[str], weights: Iterable[str]) -> Definition:
        """A definition with these names, asking a server when one is new; NotFoundError."""
        definition = self._definition
        try:
            definition.require_tables(tables)
            definition.require_weights(weights)
        except NotFoundError:
            self._refresh()
            definition = self._definition
            definition.require_tables(tables)
            definition.require_weights(weights)
        return definition

    def _coordinate(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._core.control_coordinator(json.dumps(request)))
        return reply

    def _flat(self, definition: Definition, name: str, values: Any) -> Floats:
        what = f"dense weight {name!r}"
        gradient = as_float32(values, what)
        _check_shape(what, gradient.shape, definition.weights[name].shape)
        return gradient.reshape(-1)

    def _row_gradients(
        self, definition: Definition, name: str, keys: NDArray[np.uint64], values: Any
    ) -> Floats:
        what = f"table {name!r}"
        gradients = as_float32(values, what)
        if len(keys) == 0 and gradients.size == 0:
            return gradients
        _check_shape(what, gradients.shape, (len(keys), definition.tables[name].dim))
        return gradients

    def _push_numbered(self, rows: list[Any], tensors: list[Any], rate_scale: float) -> None:
        number = getattr(self._streams, "open", None)
        if number is None:
            self._core.push(rows, tensors, rate_scale=rate_scale)
            return
        self._core.push(rows, tensors, number[0], number[1], rate_scale)
        number[1] += 1

    def _assign(self, arrays: Mapping[str, Floats], *, only_if_absent: bool) -> None:
        if not arrays:
            return
        weights = self._definition.weights
        tensors = [
            (weights[name].id, array.reshape(-1), True, only_if_absent)
            for name, array in arrays.items()
        ]
        self._core.push([], tensors)

    def _await_values(self, arrays: Mapping[str, Floats]) -> None:
        """Waits for the values of weights that another client defined; gives its own when that one
        seems to have died in between."""
        ids = [self._definition.weights[name].id for name in arrays]
        give_up = time.monotonic() + min(_FOREIGN_VALUES_SECONDS, self.config.timeout_seconds)
        while ids and not self._have_values(ids):
            if time.monotonic() >= give_up:
                self._assign(arrays, only_if_absent=True)
                return
            time.sleep(0.02)

    def _have_values(self, ids: list[int]) -> bool:
        try:
            self._core.pull([], ids)
        except NotFoundError:
            return False
        return True

    def _count(self, loss: float | None, samples: int) -> None:
        with _tally_lock:
            self._batches += 1
            self._samples += samples
            if loss is not None:
                self._loss_sum += loss * samples
                self._loss_samples += samples


_tally_lock = threading.Lock()


def _renew_tally_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _tally_lock
    _tally_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_tally_lock)


def _stream_id(name: str) -> int:
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"a stream's name is a non-empty string, not {name!r}")
    return _core.hash_bytes(b"stream:" + name.encode("utf-8", "surrogatepass")) or 1


def _weight_values(name: Any, values: Any) -> Floats:
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"a dense weight's name is a non-empty string, not {name!r}")
    return as_float32(values, f"dense weight {name!r}")


def _check_shape(what: str, shape: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if shape != needed:
        raise InvalidArgumentError(
            f"{what}: values of shape {shape}, but {needed} is needed; nothing was sent"
        )


def _is_real(value: Any) -> bool:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return bool(real and math.isfinite(value))


def _checked_batch(batch_loss: Any, batch_size: Any) -> float | None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
        raise InvalidArgumentError(f"batch_size = {batch_size!r}: allowed is an integer >= 1")
    if batch_size < 1:
        raise InvalidArgumentError(f"batch_size = {batch_size!r}: allowed is an integer >= 1")
    if batch_loss is None:
        return None
    try:
        return float(batch_loss)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"batch_loss = {batch_loss!r}: allowed is a number") from None
