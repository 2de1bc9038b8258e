"""What the commands print: rich tables for people, plain values for JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from pyspark_ps.checkpoint.differences import TableDifference, TensorDifference
from pyspark_ps.checkpoint.verifying import Problem
from pyspark_ps.communication import CheckpointInfo
from pyspark_ps.storage.format import EMBEDDINGS, FORMAT_VERSION, KINDS, Manifest
from pyspark_ps.storage.location import Location


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _table(title: str, *columns: str) -> Table:
    """Columns with a ">" in front are numbers."""
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column[0] == ">" else "left")
    return table


def _flags(manifest: Manifest) -> dict[str, bool]:
    return {
        "model": manifest.has_model,
        "embeddings": manifest.has_embeddings,
        "optimizer_states": manifest.has_optimizer_states,
    }


def manifest_json(place: str, manifest: Manifest) -> dict[str, Any]:
    """A checkpoint for scripts."""
    return {
        "path": place,
        "format_version": FORMAT_VERSION,
        "id": manifest.id,
        "created": manifest.created,
        "servers": manifest.servers,
        "partition_count": manifest.partition_count,
        "seed": manifest.seed,
        "saved": _flags(manifest),
        "rows": manifest.rows,
        "bytes": manifest.file_bytes,
        "model_bytes": manifest.model_bytes,
        "tables": [
            {**table.to_dict(), **_files(manifest, EMBEDDINGS, table.name)}
            for table in manifest.tables
        ],
        "tensors": [tensor.to_dict() for tensor in manifest.tensors],
        "weight_optimizer": manifest.weight_optimizer,
        "files": {kind: _files(manifest, kind) for kind in KINDS},
        "trainer": manifest.trainer,
    }


def _files(manifest: Manifest, kind: str, table: str | None = None) -> dict[str, int]:
    found = [file for file in manifest.files if file.kind == kind and table in (None, file.table)]
    return {"files": len(found), "bytes": sum(file.bytes for file in found)}


def manifest_tables(place: str, manifest: Manifest) -> list[Any]:
    """A checkpoint for people."""
    saved = ", ".join(name.replace("_", " ") for name, is_in in _flags(manifest).items() if is_in)
    head = [
        f"[bold]{escape(place)}[/bold]",
        f"created {manifest.created} by {manifest.servers} servers · "
        f"{manifest.partition_count} partitions · format {FORMAT_VERSION} · id {manifest.id}",
        f"holds {saved or 'nothing'} · {manifest.rows:,} rows · {_size(manifest.file_bytes)} in "
        f"{len(manifest.files)} files",
    ]
    tables = _table("Tables", "name", ">rows", ">dim", "optimizer", "states", ">files", ">size")
    for table in manifest.tables:
        files = _files(manifest, EMBEDDINGS, table.name)
        states = ", ".join(f"{name}[{floats}]" for name, floats in table.state_columns.items())
        tables.add_row(
            escape(table.name),
            f"{table.rows:,}",
            str(table.dim),
            table.optimizer,
            states or "none",
            str(files["files"]),
            _size(files["bytes"]),
        )
    optimizer = manifest.weight_optimizer.get("name", "")
    title = f"Dense tensors ({optimizer})" if optimizer else "Dense tensors"
    tensors = _table(title, "name", "shape", ">values", ">states")
    for tensor in manifest.tensors:
        shape = " × ".join(map(str, tensor.shape)) or "scalar"
        states = _size(tensor.state_bytes)
        tensors.add_row(escape(tensor.name), shape, _size(tensor.value_bytes), states)
    return [*head, tables, *([tensors] if manifest.tensors else [])]


def infos_json(infos: Sequence[CheckpointInfo]) -> dict[str, Any]:
    """Several checkpoints for scripts."""
    return {"checkpoints": [info.to_dict() for info in infos]}


def infos_table(infos: Sequence[CheckpointInfo]) -> list[Any]:
    """Several checkpoints for people."""
    table = _table("Checkpoints", "path", "created", ">rows", ">size")
    for info in infos:
        size = _size(info.metadata["bytes"])
        table.add_row(escape(info.s3_path), info.timestamp, f"{info.embedding_count:,}", size)
    return [table]


def verified_json(
    place: Location, manifest: Manifest, problems: Sequence[Problem], left_overs: Sequence[str]
) -> dict[str, Any]:
    """The outcome of verify for scripts."""
    return {
        "path": str(place),
        "whole": not problems,
        "files": len(manifest.files),
        "rows": manifest.rows,
        "bytes": manifest.file_bytes,
        "problems": [dataclasses.asdict(problem) for problem in problems],
        "left_overs": list(left_overs),
    }


def verified_tables(
    place: Location, manifest: Manifest, problems: Sequence[Problem], left_overs: Sequence[str]
) -> list[Any]:
    """The outcome of verify for people."""
    parts: list[Any] = []
    if problems:
        table = _table(f"Damaged files of {place}", "file", "what is wrong")
        for problem in problems:
            table.add_row(escape(problem.path), escape(problem.reason))
        parts.append(table)
    else:
        parts.append(
            f"[green]whole[/green]: {len(manifest.files)} files, {manifest.rows:,} rows, "
            f"{_size(manifest.file_bytes)}"
        )
    if left_overs:
        folders = sorted({os.path.dirname(path) for path in left_overs})
        parts.append(
            f"{len(left_overs)} files of saves that did not complete lie in "
            f"{escape(', '.join(folders) or '.')}; the next save or delete removes them"
        )
    return parts


@dataclass
class Difference:
    """What diff found."""

    tables: list[TableDifference]
    tensors: list[TensorDifference]
    equal_tensors: int

    @property
    def is_equal(self) -> bool:
        """Nothing differs."""
        return not self.tensors and all(table.is_equal for table in self.tables)


def difference_tables(found: Difference) -> list[Any]:
    """What diff found, for people."""
    table = _table("Rows", "table", ">added", ">removed", ">changed", ">values changed", ">same")
    for part in found.tables:
        counts = (part.added, part.removed, part.changed, part.values_changed, part.unchanged)
        table.add_row(escape(part.name), *(f"{count:,}" for count in counts))
    parts: list[Any] = [table]
    for part in found.tables:
        for name, (old, new) in part.definition.items():
            if name == "table":
                what = "is new" if new else "is gone"
                parts.append(f"table {escape(repr(part.name))} {what}")
            else:
                parts.append(f"table {escape(repr(part.name))}: {name} {old} → {new}")
    if found.tensors:
        tensors = _table("Dense tensors", "name", "what", ">largest change")
        for tensor in found.tensors:
            change = f"{tensor.max_change:.3g}" if tensor.kind == "changed" else ""
            tensors.add_row(escape(tensor.name), tensor.kind, change)
        parts.append(tensors)
    parts.append(f"{found.equal_tensors} dense tensors are equal")
    return parts
