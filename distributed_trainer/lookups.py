"""Embedding look-ups inside the compiled step, and the sum of their gradients by row.

The gradient of the rows is the transposed gather, a sparse matrix product. On the CPU it costs a
quarter to a half of the `UnsortedSegmentSum` that TensorFlow's own gradient of a gather ends in
(16,384 look-ups: dim 16 0.55 against 1.9 ms, dim 64 2.1 against 4.3 ms, one noisy machine), adds in
a fixed order, and pools lists as well. Its kernel is fast for fewer than 32 columns, so wider rows
are seen as several narrow ones.
"""

from __future__ import annotations

from typing import Any

_BLOCK_MAX = 31
_BLOCK_MIN = 8  # dims of 32 and more without a divisor from here to _BLOCK_MAX take the slow road


class Lookups:
    """Rows to the pieces of the model's input, and gradients of the pieces back to the rows.

    A gathered tensor belongs to one dim (its features that are no lists) or to one list feature.
    """

    def __init__(
        self,
        tf: Any,
        features: list[str],
        dim_of: dict[str, int],
        lists: list[str],
        inputs: tuple[Any, ...],
    ) -> None:
        self._tf = tf
        self._features = features
        self._dim_of = dim_of
        self._lists = lists
        dims = sorted(set(dim_of.values()))
        self._rows = dict(zip(dims, inputs, strict=False))
        self._positions = dict(zip(dims, inputs[len(dims) :], strict=False))
        first = 2 * len(dims)
        self._list_inputs = {
            name: inputs[first + 3 * index : first + 3 * index + 3]
            for index, name in enumerate(lists)
        }
        self.num_inputs = first + 3 * len(lists)
        self._num_rows = tf.shape(inputs[self.num_inputs])[0]
        self._plain = {
            dim: [n for n in features if dim_of[n] == dim and n not in lists] for dim in dims
        }

    def gather(self) -> list[Any]:
        """Per dim with plain features (B, F x dim), then per list feature (B, dim)."""
        tf = self._tf
        gathered = []
        for dim, names in self._plain.items():
            if names:
                flat = tf.gather(self._rows[dim], tf.reshape(self._positions[dim], (-1,)))
                gathered.append(tf.reshape(flat, (-1, len(names) * dim)))
        for name in self._lists:
            rows = self._rows[self._dim_of[name]]
            pooled = self._sparse_product(rows, self._num_rows, *self._pooling(name))
            gathered.append(tf.reshape(pooled, (-1, self._dim_of[name])))
        return gathered

    def pieces(self, gathered: list[Any]) -> list[tuple[list[str], Any]]:
        """(neighbouring features, their embeddings side by side), in the features' sorted order."""
        blocks = iter(gathered)
        block_of = {dim: next(blocks) for dim, names in self._plain.items() if names}
        list_of = {name: next(blocks) for name in self._lists}
        pieces: list[tuple[list[str], Any]] = []
        for run in self._runs():
            if run[0] in list_of:
                pieces.append((run, list_of[run[0]]))
                continue
            dim = self._dim_of[run[0]]
            names = self._plain[dim]
            first = names.index(run[0])
            block = block_of[dim]
            if len(run) < len(names):
                block = block[:, first * dim : (first + len(run)) * dim]
            pieces.append((run, block))
        return pieces

    def _runs(self) -> list[list[str]]:
        """Features in sorted order, neighbours of one gathered tensor together."""
        runs: list[list[str]] = []
        for name in self._features:
            last = runs[-1][-1] if runs else None
            joins = (
                last is not None
                and name not in self._lists
                and last not in self._lists
                and self._dim_of[name] == self._dim_of[last]
            )
            if joins:
                runs[-1].append(name)
            else:
                runs.append([name])
        return runs

    def scatter(self, gradients: list[Any]) -> list[Any]:
        """Gradients of what `gather` returned -> per dim the gradient (U, dim) of its rows."""
        tf = self._tf
        blocks = iter(gradients)
        sums: dict[int, list[Any]] = {dim: [] for dim in self._plain}
        for dim, names in self._plain.items():
            if not names:
                continue
            gradient = next(blocks)
            if gradient is not None:
                positions = tf.reshape(self._positions[dim], (-1,))
                count = tf.size(positions)
                sums[dim].append(
                    self._sparse_product(
                        tf.reshape(tf.convert_to_tensor(gradient), (-1, dim)),
                        tf.shape(self._rows[dim])[0],
                        positions,
                        tf.range(count),
                        tf.ones((count,)),
                    )
                )
        for name in self._lists:
            gradient = next(blocks)
            dim = self._dim_of[name]
            if gradient is not None:
                samples, positions, shares = self._pooling(name)
                rows = tf.shape(self._rows[dim])[0]
                sums[dim].append(
                    self._sparse_product(
                        tf.convert_to_tensor(gradient), rows, positions, samples, shares
                    )
                )
        return [
            tf.add_n(parts) if parts else tf.zeros_like(self._rows[dim])
            for dim, parts in sums.items()
        ]

    def _pooling(self, name: str) -> tuple[Any, Any, Any]:
        positions, samples, shares = self._list_inputs[name]
        return samples, positions, shares

    def _sparse_product(
        self, matrix: Any, num_rows: Any, out_rows: Any, in_rows: Any, values: Any
    ) -> Any:
        """out[out_rows[i]] += values[i] * matrix[in_rows[i]], in this order."""
        tf = self._tf
        dim = int(matrix.shape[1])
        width = _block_width(dim)
        if width < _BLOCK_MIN and dim > _BLOCK_MAX:
            taken = tf.gather(matrix, in_rows) * values[:, None]
            return tf.math.unsorted_segment_sum(taken, out_rows, num_rows)
        blocks = dim // width
        if blocks > 1:
            out_rows, in_rows = self._in_blocks(out_rows, blocks), self._in_blocks(in_rows, blocks)
            values = tf.repeat(values, blocks)
        product = tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=tf.stack([out_rows, in_rows], axis=1),
            a_values=values,
            a_shape=tf.cast(tf.stack([num_rows, tf.shape(matrix)[0]]) * blocks, tf.int64),
            b=tf.reshape(matrix, (-1, width)),
        )
        return tf.reshape(product, (-1, dim))

    def _in_blocks(self, rows: Any, blocks: int) -> Any:
        tf = self._tf
        return tf.reshape(rows[:, None] * blocks + tf.range(blocks), (-1,))


def _block_width(dim: int) -> int:
    """The largest divisor of dim that TensorFlow's product still does in its tight loop."""
    return next(width for width in range(min(dim, _BLOCK_MAX), 0, -1) if dim % width == 0)
