"""Checkpoints in any storage that pyarrow or boto3 reaches. docs/checkpoints.md is the format.

Saving: the driver calls `CheckpointManager.begin`, every server writes its part with a `PartWriter`
for `Save.target`, the driver completes it with `Save.commit`. Loading: `read_manifest`, then
`read_embeddings` and its siblings. `open_location` is the way to any file, for other uses too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark_ps.storage.checkpoint import (
        CheckpointManager,
        Save,
        checkpoint_info,
        read_manifest,
        utc_now,
    )
    from pyspark_ps.storage.format import FileRecord, Manifest, TableRecord, TensorRecord
    from pyspark_ps.storage.location import Location, open_location
    from pyspark_ps.storage.reader import read_embeddings, read_file, read_ledger, read_weights
    from pyspark_ps.storage.s3_backend import S3Backend
    from pyspark_ps.storage.writer import PartWriter, SaveTarget

_HOME = {
    "CheckpointManager": "checkpoint",
    "FileRecord": "format",
    "Location": "location",
    "Manifest": "format",
    "PartWriter": "writer",
    "S3Backend": "s3_backend",
    "Save": "checkpoint",
    "SaveTarget": "writer",
    "TableRecord": "format",
    "TensorRecord": "format",
    "checkpoint_info": "checkpoint",
    "open_location": "location",
    "read_embeddings": "reader",
    "read_file": "reader",
    "read_ledger": "reader",
    "read_manifest": "checkpoint",
    "read_weights": "reader",
    "utc_now": "checkpoint",
}

__all__ = [
    "CheckpointManager",
    "FileRecord",
    "Location",
    "Manifest",
    "PartWriter",
    "S3Backend",
    "Save",
    "SaveTarget",
    "TableRecord",
    "TensorRecord",
    "checkpoint_info",
    "open_location",
    "read_embeddings",
    "read_file",
    "read_ledger",
    "read_manifest",
    "read_weights",
    "utc_now",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module = importlib.import_module(f"pyspark_ps.storage.{_HOME[name]}")
        globals()[name] = value = getattr(module, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
