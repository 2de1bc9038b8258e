"""The trainer's part of one checkpoint, written and read.

`trainer/` holds `config.json` (for people), `architecture.json` where Keras can rebuild the model
from it, and `local_weights.npz` where the model has weights that are not float; the manifest's
`trainer` holds the run's state and the shapes of the model's weights.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distributed_trainer.config import TrainerConfig
from distributed_trainer.run_state import RunState
from pyspark_ps.errors import ConfigurationError, InvalidArgumentError
from pyspark_ps.storage.layout import trainer_path

if TYPE_CHECKING:
    from pyspark_ps.storage import Location

logger = logging.getLogger(__name__)

CONFIG = "config.json"
ARCHITECTURE = "architecture.json"
LOCAL_WEIGHTS = "local_weights.npz"


@dataclass(frozen=True)
class SavedRun:
    """What a checkpoint says of the run that wrote it; empty for one of a parameter server alone.

    Attributes:
        place: of the checkpoint, for messages.
        state: None where no trainer wrote it.
        shapes: of the model's weights, by name; None as `state`.
        architecture: the model's Keras configuration; None where Keras could not rebuild it.
        local_weights: those that are not float, by name.
    """

    place: str
    state: RunState | None = None
    shapes: Mapping[str, list[int]] | None = None
    architecture: str | None = None
    local_weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Location) -> SavedRun:
        """The trainer's part of the checkpoint at a place.

        Raises:
            NotFoundError: no complete checkpoint there.
            DataCorruptionError: a file of it is missing or damaged.
            StorageError: the place cannot be read.
        """
        from pyspark_ps.storage import read_file, read_manifest

        manifest = read_manifest(place)
        found = {file.path: file for file in manifest.files}

        def read(name: str) -> bytes | None:
            record = found.get(trainer_path(manifest.id, name))
            return None if record is None else read_file(place, manifest, record)

        architecture, weights = read(ARCHITECTURE), read(LOCAL_WEIGHTS)
        state = manifest.trainer.get("state")
        return cls(
            place=str(place),
            state=None if state is None else RunState.from_dict(state),
            shapes=manifest.trainer.get("weights"),
            architecture=None if architecture is None else architecture.decode(),
            local_weights={} if weights is None else _unpacked(weights),
        )

    def check_fits(self, wrapper: Any) -> None:
        """Refuses another model than the one that was saved.

        Raises:
            ConfigurationError: names the weight that differs.
        """
        ours = _shapes(wrapper)
        if self.shapes is None or self.shapes == ours:
            return
        saved = self.shapes
        name = next(n for n in {**saved, **ours} if saved.get(n) != ours.get(n))
        raise ConfigurationError(
            f"{self.place} is the checkpoint of another model: its weight {name!r} has the shape "
            f"{saved.get(name)}, this model's {ours.get(name)}; set the model that it was saved "
            "with"
        )


def manifest_part(wrapper: Any, state: RunState) -> dict[str, Any]:
    """What a checkpoint's manifest keeps for the trainer."""
    return {"state": state.to_dict(), "weights": _shapes(wrapper)}


def files_of(wrapper: Any, config: TrainerConfig) -> dict[str, bytes]:
    """name -> content of the files below `trainer/`."""
    files = {CONFIG: json.dumps(config.to_dict(), indent=1).encode()}
    try:
        files[ARCHITECTURE] = wrapper.get_architecture().encode()
    except InvalidArgumentError:
        logger.debug("Keras cannot rebuild the model: no architecture in the checkpoint")
    local = wrapper.get_local_weights()
    if local:
        packed = io.BytesIO()
        np.savez(packed, **local)
        files[LOCAL_WEIGHTS] = packed.getvalue()
    return files


def _unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _shapes(wrapper: Any) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in wrapper.get_weight_shapes().items()}
