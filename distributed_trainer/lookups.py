"""Embedding look-ups of a batch: rows into the model's input, its gradient back to the rows.

Both run in the native module, beside the compiled step and not inside of it: a gather of 16,384
rows of dim 16 costs 0.2 ms there and its transpose 0.3 ms, where TensorFlow's gradient of a gather
(`UnsortedSegmentSum`) costs 1.9 ms and a sparse matrix product 0.6 ms (one noisy machine). Sums are
added in the order of features and samples, so they do not depend on threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import FeatureConfig
from distributed_trainer.key_batch import KeyBatch
from pyspark_ps import _core

Floats = NDArray[np.float32]

_ALIGNMENT_BYTES = 64  # of TensorFlow's tensors


class Lookups:
    """The model's input matrix: float32 (B, width), one row a sample.

    Its columns are the embeddings of the sparse features in sorted name order, then the dense
    features in sorted name order. Its memory goes round: `gather` lends it, `give_back` takes it
    back. Safe to share between threads.

    Attributes:
        widths: feature -> columns, in the matrix's order.
        embedding_width: columns of the sparse features.
    """

    def __init__(self, features: FeatureConfig) -> None:
        names = sorted(features.sparse_features)
        dims = {name: features.get_embedding_dim(name) for name in names}
        self.widths = {**dims, **dict.fromkeys(sorted(features.dense_features), 1)}
        self.embedding_width = sum(dims.values())
        self._dim_of_table = features.get_tables()
        self._table_of = {name: features.get_table(name) for name in names}
        columns = np.cumsum([0, *dims.values()]).tolist()
        self._column_of = dict(zip(names, columns, strict=False))
        self._width = sum(self.widths.values())
        self._spare: deque[Floats] = deque()

    def gather(self, batch: KeyBatch, rows: Mapping[str, Floats]) -> Floats:
        """The input of a batch; the caller's until it gives it back.

        Args:
            rows: table -> float32 (U, dim) of `batch.keys[table]`.
        """
        size = batch.num_rows * self._width
        memory = self._spare_floats()
        if memory.size < size:
            memory = aligned_floats(size)
        matrix = memory[:size].reshape(batch.num_rows, self._width)
        _core.gather_rows(matrix, self._of(batch, rows))
        matrix[:, self.embedding_width :] = batch.dense
        return matrix

    def give_back(self, matrix: Floats, *results: Floats) -> None:
        """Takes a matrix of `gather` back, unless one of the results lies in it (a model may hand
        its input through)."""
        if not any(np.may_share_memory(matrix, result) for result in results):
            self._spare.append(matrix.reshape(-1))

    def _spare_floats(self) -> Floats:
        try:
            return self._spare.pop()
        except IndexError:
            return np.empty(0, np.float32)

    def sum_gradients(self, batch: KeyBatch, gradient: Floats) -> dict[str, Floats]:
        """table -> float32 (U, dim) gradients of its rows, given that of the input (B, width)."""
        sums = {
            table: np.zeros((len(keys), self._dim_of_table[table]), np.float32)
            for table, keys in batch.keys.items()
        }
        _core.sum_rows(gradient, self._of(batch, sums))
        return sums

    def _of(
        self, batch: KeyBatch, rows: Mapping[str, Floats]
    ) -> list[tuple[Floats, NDArray[np.int32], NDArray[np.int64] | None, int]]:
        return [
            (rows[table], batch.positions[name], batch.offsets.get(name), self._column_of[name])
            for name, table in self._table_of.items()
        ]


def aligned_floats(count: int) -> Floats:
    """Uninitialised memory that TensorFlow takes as it is."""
    raw = np.empty(count * 4 + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + count * 4].view(np.float32)


def is_aligned(array: NDArray[Any]) -> bool:
    """Whether TensorFlow can take the array as it is."""
    return (
        array.ctypes.data % _ALIGNMENT_BYTES == 0
        and array.flags.writeable
        and array.flags.c_contiguous
    )


def clip_rows(gradient: Floats, norm_max: float) -> None:
    """Scales rows (U, dim) whose L2 norm is above `norm_max` down to it, in place."""
    norms = np.sqrt(np.einsum("ij,ij->i", gradient, gradient))
    np.multiply(gradient, (norm_max / np.maximum(norms, norm_max))[:, None], out=gradient)
