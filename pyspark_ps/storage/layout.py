"""Where the files of a checkpoint lie, and how left-overs of a save that died are told.

Every data file carries the id of its save (16 hex digits) in its name, so two saves of one path
never write the same file, and nothing that a user put there can be taken for one of ours.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from urllib.parse import quote

from pyspark_ps.storage.format import EMBEDDINGS, LEDGER, TRAINER, WEIGHTS

FOLDER_NAME_BYTES_MAX = 200  # file systems take 255

_OURS = re.compile(
    rf"(?:{EMBEDDINGS}/[^/]+|{WEIGHTS}|{LEDGER})/part-([0-9a-f]{{16}})-[^/]*\.parquet"
    rf"|{TRAINER}/([0-9a-f]{{16}})/.+"
    r"|_saving-([0-9a-f]{16})\.json"
)


def new_save_id() -> str:
    """16 random hex digits."""
    return secrets.token_hex(8)


def marker_name(save_id: str) -> str:
    """The file that stands for a save in progress."""
    return f"_saving-{save_id}.json"


def table_folder(table: str) -> str:
    """Name of the folder of a table: percent-encoded, shortened with a hash when too long.

    A "." or "_" at the front is encoded too: Spark and pyarrow leave such folders out.
    """
    name = quote(table, safe="")
    if name[:1] in (".", "_"):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) <= FOLDER_NAME_BYTES_MAX:
        return name
    digest = hashlib.sha256(table.encode()).hexdigest()[:32]
    return f"{name[: FOLDER_NAME_BYTES_MAX - 33]}-{digest}"


def embeddings_path(table: str, save_id: str, server: int, number: int) -> str:
    """Relative path of a file with rows of `table`."""
    return f"{EMBEDDINGS}/{table_folder(table)}/part-{save_id}-{server:04d}-{number:05d}.parquet"


def part_path(kind: str, save_id: str, server: int, number: int) -> str:
    """Relative path of a Parquet file of dense tensors or of the ledger."""
    return f"{kind}/part-{save_id}-{server:04d}-{number:05d}.parquet"


def trainer_path(save_id: str, name: str) -> str:
    """Relative path of a file of the trainer's."""
    return f"{TRAINER}/{save_id}/{name}"


def save_id_of(path: str) -> str | None:
    """Id of the save that a relative path belongs to; None when the file is not one of ours."""
    found = _OURS.fullmatch(path)
    return next(filter(None, found.groups()), None) if found else None
