"""What a checkpoint's `manifest.json` says. docs/checkpoints.md is the page of the format.

Everything here is plain data: dataclasses that become JSON and come back from it, strictly.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark_ps.communication._record import record_from_dict
from pyspark_ps.errors import DataCorruptionError, InvalidArgumentError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES_MAX = 256 << 20

EMBEDDINGS = "embeddings"
WEIGHTS = "weights"
LEDGER = "ledger"
TRAINER = "trainer"
KINDS = (EMBEDDINGS, WEIGHTS, LEDGER, TRAINER)


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint.

    Attributes:
        path: relative to the checkpoint, with "/".
        kind: "embeddings", "weights", "ledger" or "trainer".
        bytes: size of the file.
        checksum: "xxh3_128:<32 hex digits>" of all its bytes.
        table: name of the table ("" unless kind is "embeddings").
        server: id of the server that wrote it; -1 for the driver.
        rows: of a Parquet file; 0 for others.
        row_groups: of a Parquet file; 0 for others.
        footer_bytes: the Parquet footer's share of the file's end; 0 for other files.
        footer_checksum: of these bytes, in the form of `checksum`.
        partitions: lowest and highest partition with rows in the file; empty where rows have none.
    """

    path: str
    kind: str
    bytes: int
    checksum: str
    table: str = ""
    server: int = -1
    rows: int = 0
    row_groups: int = 0
    footer_bytes: int = 0
    footer_checksum: str = ""
    partitions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "partitions", tuple(self.partitions))

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold and `from_dict` takes."""
        return {**dataclasses.asdict(self), "partitions": list(self.partitions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown or missing keys.
        """
        return record_from_dict(cls, values)


@dataclass(frozen=True)
class TableRecord:
    """Definition of a table, complete (as `PSConfig.fill_table` makes it), and its rows.

    Attributes:
        state_columns: floats per row of each state column, in the order of the files' columns;
            empty when the checkpoint was saved without optimizer states.
    """

    name: str
    dim: int
    optimizer: str
    optimizer_params: dict[str, Any]
    init: str
    init_scale: float
    rows: int = 0
    state_columns: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold and `from_dict` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown or missing keys.
        """
        return record_from_dict(cls, values)


@dataclass(frozen=True)
class TensorRecord:
    """A dense tensor.

    Attributes:
        state_bytes: of its optimizer state in the servers' memory; 0 when saved without states.
    """

    name: str
    shape: tuple[int, ...]
    state_bytes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold and `from_dict` takes."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TensorRecord:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown or missing keys.
        """
        return record_from_dict(cls, values)

    @property
    def value_bytes(self) -> int:
        """Of its values as float32."""
        floats = 1
        for length in self.shape:
            floats *= length
        return 4 * floats


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint.

    Attributes:
        id: 16 hex digits, new for each save; every data file of the save carries it in its name.
        created: ISO 8601, UTC.
        partition_count: of the cluster that wrote it; the numbers in the column "partition".
        seed: of initial values of rows.
        servers: how many wrote it.
        has_model, has_embeddings, has_optimizer_states: what was saved.
        weight_optimizer: {"name": ..., "params": {...}} of the dense tensors.
        config: `PSConfig.to_dict()` of the cluster that wrote it.
        trainer: whatever the trainer needs beside its files.
    """

    id: str
    created: str
    partition_count: int
    seed: int
    servers: int
    has_model: bool
    has_embeddings: bool
    has_optimizer_states: bool
    tables: tuple[TableRecord, ...] = ()
    tensors: tuple[TensorRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()
    weight_optimizer: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Embedding rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def file_bytes(self) -> int:
        """Of all files, the manifest not counted."""
        return sum(file.bytes for file in self.files)

    @property
    def model_bytes(self) -> int:
        """Of the dense tensors and their states, as they lie in memory."""
        return sum(tensor.value_bytes + tensor.state_bytes for tensor in self.tensors)

    def table(self, name: str) -> TableRecord | None:
        """The table of that name, if the checkpoint has one."""
        return next((table for table in self.tables if table.name == name), None)

    def files_of(self, kind: str, table: str = "") -> list[FileRecord]:
        """Files of one kind (and table), by path."""
        found = [file for file in self.files if file.kind == kind and file.table == table]
        return sorted(found, key=lambda file: file.path)

    def to_json(self) -> str:
        """The text of manifest.json."""
        values: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            parts = spec.name in ("tables", "tensors", "files")
            values[spec.name] = [part.to_dict() for part in value] if parts else value
        values["totals"] = {
            "rows": self.rows,
            "bytes": self.file_bytes,
            "files": len(self.files),
            "model_bytes": self.model_bytes,
        }
        return json.dumps(values, indent=1, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, place: str = MANIFEST_NAME) -> Manifest:
        """The inverse of `to_json`.

        Args:
            place: where the text lies, for messages.

        Raises:
            DataCorruptionError: no manifest, another format version, or parts that contradict each
                other; names `place` and the reason.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise DataCorruptionError(f"{place} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataCorruptionError(f"{place} is no manifest: it holds no object")
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise DataCorruptionError(
                f"{place} has format version {version!r}; this version of pyspark_ps reads "
                f"{FORMAT_VERSION}: load it with the version that wrote it"
            )
        totals = values.pop("totals", None)
        try:
            manifest = record_from_dict(cls, _with_parts(values))
            manifest.check(totals)
        except (InvalidArgumentError, TypeError, ValueError, AttributeError) as error:
            raise DataCorruptionError(f"{place} is damaged: {error}") from error
        return manifest

    def check(self, totals: Mapping[str, Any] | None = None) -> None:
        """Proves that the parts agree with each other.

        Raises:
            InvalidArgumentError: they do not; says which.
        """
        names = [file.path for file in self.files]
        if len(set(names)) != len(names):
            raise InvalidArgumentError("a file is listed twice")
        for file in self.files:
            _check_file(file)
        for table in self.tables:
            rows = sum(file.rows for file in self.files_of(EMBEDDINGS, table.name))
            if rows != table.rows:
                raise InvalidArgumentError(
                    f"table {table.name!r} has {table.rows} rows, its files have {rows}"
                )
        known = {table.name for table in self.tables}
        strange = {file.table for file in self.files if file.kind == EMBEDDINGS} - known
        if strange:
            raise InvalidArgumentError(f"files of undefined tables: {sorted(strange)}")
        mine = {"rows": self.rows, "bytes": self.file_bytes, "files": len(self.files)}
        if totals is not None and any(totals.get(key) != value for key, value in mine.items()):
            raise InvalidArgumentError(f"totals {dict(totals)} where the files add up to {mine}")


def _check_file(file: FileRecord) -> None:
    parts = file.path.split("/")
    if file.kind not in KINDS or file.rows < 0 or file.bytes < 0:
        raise InvalidArgumentError(f"file {file.path!r} is of no known kind or size")
    if not all(parts) or ".." in parts or "." in parts or parts[0] != file.kind:
        raise InvalidArgumentError(f"file {file.path!r} lies outside the checkpoint's folders")


def _with_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    def parts(name: str, kind: Any) -> tuple[Any, ...]:
        listed: Sequence[Any] = values.get(name, ())
        return tuple(kind.from_dict(part) for part in listed)

    return {
        **values,
        "tables": parts("tables", TableRecord),
        "tensors": parts("tensors", TensorRecord),
        "files": parts("files", FileRecord),
    }
