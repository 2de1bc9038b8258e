"""What is known of a checkpoint without reading its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark_ps.communication._record import record_from_dict


@dataclass
class CheckpointInfo:
    """One complete checkpoint.

    Attributes:
        s3_path: where it lies; any path or URL.
        timestamp: when it was completed, ISO 8601, UTC.
        embedding_count: rows of all tables.
        model_size_bytes: dense weights with their optimizer states.
        config: configuration of the cluster that wrote it.
        metadata: whatever else its manifest says.
    """

    s3_path: str
    timestamp: str
    embedding_count: int
    model_size_bytes: int
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict that `from_dict` takes."""
        return {
            "s3_path": self.s3_path,
            "timestamp": self.timestamp,
            "embedding_count": self.embedding_count,
            "model_size_bytes": self.model_size_bytes,
            "config": dict(self.config),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CheckpointInfo:
        """The inverse of `to_dict`.

        Raises:
            InvalidArgumentError: unknown or missing keys.
        """
        return record_from_dict(cls, values)
