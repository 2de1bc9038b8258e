"""Whether a checkpoint fits a running cluster, and what the cluster becomes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark_ps.client.definition import Definition
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from pyspark_ps.placement.definitions import optimizer_definition
from pyspark_ps.utils.config import DEFAULT_TABLE, PSConfig

if TYPE_CHECKING:
    from pyspark_ps.storage import Manifest, TableRecord


def load_plan(
    manifest: Manifest,
    definition: Definition,
    config: PSConfig,
    place: str,
    model: bool,
    embeddings: bool,
    states: bool,
) -> dict[str, Any]:
    """What the servers shall load, as `_core.Load` reads it.

    Tables come as they will run: with the running hyper-parameters where table and optimizer are
    the same, else as the checkpoint has them.

    Raises:
        InvalidArgumentError: nothing is asked for.
        NotFoundError: the checkpoint lacks a part that is asked for.
        ConfigurationError: a table that `config` declares does not fit.
    """
    if not (model or embeddings):
        raise InvalidArgumentError("neither model nor embeddings are to be loaded: load one")
    _check_parts(manifest, place, model, embeddings, states)
    tables = []
    if embeddings:
        for record in manifest.tables:
            if record.name == DEFAULT_TABLE and not record.rows and not _same(record, definition):
                continue
            tables.append(_table(record, definition, config, place, states))
    return {
        "states": states,
        "rows": embeddings,
        "weights": model,
        "ledger": model and embeddings,
        "tables": tables,
        "tensors": [{"name": t.name, "shape": list(t.shape)} for t in manifest.tensors]
        if model
        else [],
        "weight_optimizer": _weight_optimizer(manifest, definition, model and states),
    }


def _check_parts(
    manifest: Manifest, place: str, model: bool, embeddings: bool, states: bool
) -> None:
    for asked, there, part in (
        (model, manifest.has_model, "model"),
        (embeddings, manifest.has_embeddings, "embeddings"),
        (states, manifest.has_optimizer_states, "optimizer_states"),
    ):
        if asked and not there:
            raise NotFoundError(
                f"{place} was saved with save_{part}=False: load it with load_{part}=False"
            )


def _same(record: TableRecord, definition: Definition) -> bool:
    running = definition.tables.get(record.name)
    if running is None:
        return False
    return bool(
        running.dim == record.dim and running.definition["optimizer"]["name"] == record.optimizer
    )


def _table(
    record: TableRecord, definition: Definition, config: PSConfig, place: str, states: bool
) -> dict[str, Any]:
    """The definition that the table will have."""
    if _same(record, definition):
        return _without_id(definition.tables[record.name].definition)
    if record.name in definition.tables and record.name in config.all_tables():
        running = definition.tables[record.name].definition
        name = running["optimizer"]["name"]
        if record.dim != running["dim"] or states:
            raise ConfigurationError(
                f"table {record.name!r} has dim {record.dim} and optimizer {record.optimizer!r} in "
                f"{place}; the config declares dim {running['dim']} and optimizer {name!r}: "
                "declare it as it was saved, or leave it out"
                + ("" if record.dim != running["dim"] else ", or load_optimizer_states=False")
            )
        return _without_id(running)
    return {
        "name": record.name,
        "dim": record.dim,
        "optimizer": optimizer_definition(record.optimizer, record.optimizer_params),
        "init": record.init,
        "init_scale": record.init_scale,
    }


def _without_id(definition: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if key != "id"}


def _weight_optimizer(
    manifest: Manifest, definition: Definition, comes_with_states: bool
) -> dict[str, Any]:
    running = definition.weight_optimizer
    saved = manifest.weight_optimizer
    return saved if comes_with_states and saved["name"] != running["name"] else running
