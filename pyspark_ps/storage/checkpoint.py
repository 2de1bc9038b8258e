"""Checkpoints as wholes: beginning and completing a save, finding, describing, deleting them."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark_ps.communication import CheckpointInfo
from pyspark_ps.errors import DataCorruptionError, InvalidArgumentError, NotFoundError, StorageError
from pyspark_ps.storage import layout
from pyspark_ps.storage.backend import ABSENT
from pyspark_ps.storage.format import FORMAT_VERSION, KINDS, MANIFEST_NAME, Manifest
from pyspark_ps.storage.location import Location, open_location
from pyspark_ps.storage.writer import SaveTarget

if TYPE_CHECKING:
    from pyspark_ps.utils.config import PSConfig

_MANIFESTS_AT_ONCE = 8

Infos = list[CheckpointInfo]

_logger = logging.getLogger(__name__)


def utc_now() -> str:
    """ISO 8601 with microseconds, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Save:
    """A save in progress; made by `CheckpointManager.begin`.

    Attributes:
        target: for the `PartWriter`s, here and in the servers.
        previous: the version of the manifest that the path held, or "absent".
    """

    target: SaveTarget
    previous: str

    @property
    def id(self) -> str:
        """For `Manifest.id`."""
        return self.target.id

    def commit(self, manifest: Manifest) -> None:
        """Completes the checkpoint: from now on it is the one at its path.

        Then the files of the one before it go; a failure there is no failure of the save (they are
        left-overs, which the next one removes).

        Raises:
            InvalidArgumentError: the manifest is of another save, or contradicts itself.
            StorageError: a file is missing or has another size, another save took the path over,
                or the place cannot be written. The checkpoint before it stands.
        """
        place = self.target.location
        if manifest.id != self.id:
            raise InvalidArgumentError(f"the manifest is of save {manifest.id}, not {self.id}")
        manifest.check()
        sizes = dict(place.entries())
        if layout.marker_name(self.id) not in sizes:
            raise StorageError(
                f"another save of {place} began in the meantime and removed this one's files: let "
                "one job at a time save to a path"
            )
        for file in manifest.files:
            if sizes.get(file.path) != file.bytes:
                raise StorageError(
                    f"cannot complete {place}: {file.path} has {sizes.get(file.path, 'no')} bytes "
                    f"where {file.bytes} were written"
                )
        place.put(MANIFEST_NAME, manifest.to_json().encode(), self.previous)
        try:
            _remove_left_overs(place, manifest, sizes)
        except StorageError as error:
            _logger.warning("left-overs stay until the next save of %s: %s", place, error)

    def abandon(self) -> None:
        """Removes what the save has written so far. The checkpoint before it stands.

        Raises:
            StorageError: it could not be removed; the next save of the path will.
        """
        place = self.target.location
        mine = [entry.path for entry in place.entries() if layout.save_id_of(entry.path) == self.id]
        place.delete(mine)
        place.drop_unfinished(lambda name: layout.save_id_of(name) == self.id)
        _remove_folders(place)


class CheckpointManager:
    """Checkpoints in any storage. Paths and URLs are those of `open_location`.

    Args:
        config: s3_* fields say how S3 is reached and written, s3_compression how files are packed.
        spark_hadoop: Spark's `fs.s3a.*` settings.
    """

    def __init__(
        self, config: PSConfig | None = None, spark_hadoop: Mapping[str, str] | None = None
    ) -> None:
        self._config = config
        self._spark_hadoop = dict(spark_hadoop or {})

    def location(self, path: str) -> Location:
        """`open_location` with this manager's settings."""
        return open_location(path, self._config, self._spark_hadoop)

    def begin(self, path: str) -> Save:
        """Starts a save: removes left-overs of saves that died there, and marks the path.

        A checkpoint that lies there stays as it is until `Save.commit`.

        Raises:
            StorageError: the place cannot be read or written.
            DataCorruptionError: a damaged manifest lies there; delete the checkpoint first.
        """
        place = self.location(path)
        previous: str = ABSENT
        manifest = None
        try:
            text, previous = place.read(MANIFEST_NAME)
        except NotFoundError:
            pass
        else:
            manifest = Manifest.from_json(text, f"{place}/{MANIFEST_NAME}")
        save_id = layout.new_save_id()
        marker = {"started": utc_now(), "host": socket.gethostname(), "pid": os.getpid()}
        place.put(layout.marker_name(save_id), json.dumps(marker).encode())
        _remove_left_overs(place, manifest, dict(place.entries()), keep=save_id)
        compression = "zstd" if self._config is None else self._config.s3_compression
        return Save(SaveTarget(place, save_id, compression), previous)

    def manifest(self, path: str) -> Manifest:
        """The manifest of the complete checkpoint at `path`.

        Raises:
            NotFoundError: there is none, or a save that did not complete.
            DataCorruptionError: it is damaged or of another format version.
            StorageError: the place cannot be read.
        """
        return read_manifest(self.location(path))

    def info(self, path: str) -> CheckpointInfo:
        """What is known of the complete checkpoint at `path`; errors as `manifest`."""
        place = self.location(path)
        return checkpoint_info(place, read_manifest(place))

    def list(self, prefix: str) -> Infos:
        """Complete checkpoints at and anywhere below `prefix`, newest first.

        A file manifest.json that is damaged, or no checkpoint's, is left out with a warning.

        Raises:
            StorageError: the place cannot be listed.
        """
        root = self.location(prefix)
        names = [
            entry.path.rpartition("/")[0]
            for entry in root.entries()
            if entry.path.rpartition("/")[2] == MANIFEST_NAME
        ]
        places = [root.child(name) if name else root for name in names]
        with ThreadPoolExecutor(_MANIFESTS_AT_ONCE) as pool:
            infos = [info for info in pool.map(_info_or_none, places) if info is not None]
        return sorted(infos, key=lambda info: (info.timestamp, info.s3_path), reverse=True)

    def delete(self, path: str) -> None:
        """Removes the checkpoint at `path`, or the left-overs of saves that died there.

        Nothing else: not what lies in folders below, not a file that no save wrote.

        Raises:
            NotFoundError: neither is there (a folder of checkpoints is none).
            StorageError: it could not be removed wholly; do it again.
        """
        place = self.location(path)
        sizes = dict(place.entries())
        ours = [name for name in sizes if layout.save_id_of(name)]
        if MANIFEST_NAME in sizes:
            place.delete([MANIFEST_NAME])  # from here on there is no checkpoint
        elif not ours:
            raise NotFoundError(f"there is no checkpoint at {place}")
        place.delete(ours)
        place.drop_unfinished(lambda name: layout.save_id_of(name) is not None)
        _remove_folders(place)

    def prune_to(self, prefix: str, keep: int) -> Infos:
        """Deletes all but the newest `keep` complete checkpoints below `prefix`; gives the deleted.

        Raises:
            InvalidArgumentError: keep < 1.
            StorageError: one could not be removed.
        """
        if keep < 1:
            raise InvalidArgumentError(f"keep = {keep!r}: allowed is >= 1")
        old = self.list(prefix)[keep:]
        for info in reversed(old):
            self.delete(info.s3_path)
        return old


def read_manifest(place: Location, expected_id: str | None = None) -> Manifest:
    """The manifest of a complete checkpoint.

    Args:
        expected_id: of the save; another one means that the checkpoint was replaced.

    Raises:
        NotFoundError: there is no complete checkpoint (or another than expected).
        DataCorruptionError: it is damaged or of another format version.
        StorageError: the place cannot be read.
    """
    try:
        text, _ = place.read(MANIFEST_NAME)
    except NotFoundError:
        dead = any(layout.save_id_of(entry.path) for entry in place.entries())
        what = (
            f"holds a save that did not complete (no {MANIFEST_NAME}): load another checkpoint"
            if dead
            else f"holds no checkpoint (no {MANIFEST_NAME}): list_checkpoints shows what there is"
        )
        raise NotFoundError(f"{place} {what}") from None
    manifest = Manifest.from_json(text, f"{place}/{MANIFEST_NAME}")
    if expected_id is not None and manifest.id != expected_id:
        raise NotFoundError(
            f"{place} was replaced by another save ({manifest.id}) while it was being loaded"
        )
    return manifest


def _info_or_none(place: Location) -> CheckpointInfo | None:
    try:
        return checkpoint_info(place, read_manifest(place))
    except NotFoundError:  # deleted in the meantime
        return None
    except DataCorruptionError as error:
        _logger.warning("left out of the list: %s", error)
        return None


def checkpoint_info(place: Location, manifest: Manifest) -> CheckpointInfo:
    """What users are told of a checkpoint."""
    return CheckpointInfo(
        s3_path=str(place),
        timestamp=manifest.created,
        embedding_count=manifest.rows,
        model_size_bytes=manifest.model_bytes,
        config=manifest.config,
        metadata={
            "id": manifest.id,
            "format_version": FORMAT_VERSION,
            "servers": manifest.servers,
            "partition_count": manifest.partition_count,
            "bytes": manifest.file_bytes,
            "files": len(manifest.files),
            "tables": {table.name: table.rows for table in manifest.tables},
            "tensors": len(manifest.tensors),
            "has_model": manifest.has_model,
            "has_embeddings": manifest.has_embeddings,
            "has_optimizer_states": manifest.has_optimizer_states,
            "trainer": manifest.trainer,
        },
    )


def _remove_left_overs(
    place: Location, manifest: Manifest | None, names: Iterable[str], keep: str = ""
) -> None:
    """Files of saves that are neither named in the manifest nor of the save `keep`."""
    named = {file.path for file in manifest.files} if manifest else set()
    ids = {name: layout.save_id_of(name) for name in names}
    dead = [name for name, save_id in ids.items() if save_id not in (None, keep)]
    dead = [name for name in dead if name not in named]
    if dead:
        place.delete(dead)
        _remove_folders(place)
    place.drop_unfinished(lambda name: layout.save_id_of(name) not in (None, keep))


def _remove_folders(place: Location) -> None:
    for kind in KINDS:
        place.child(kind).remove_empty_folders()
    if next(place.entries(), None) is None:
        place.remove_empty_folders()
