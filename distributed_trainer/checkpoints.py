"""A trainer's checkpoints: those of the parameter server, with what a run needs to go on."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from distributed_trainer.config import TrainerConfig
from distributed_trainer.run_state import RunState
from distributed_trainer.saved_run import SavedRun, files_of, manifest_part
from pyspark_ps.errors import ConfigurationError, PSError

if TYPE_CHECKING:
    from distributed_trainer.session import Session
    from pyspark_ps import PSMainClient
    from pyspark_ps.storage import CheckpointManager

logger = logging.getLogger(__name__)

LATEST = "latest"
_DAY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})/?$")


class TrainerCheckpoints:
    """Saves, finds and loads. The servers must run.

    Args:
        config: `s3_checkpoint_path`, `checkpoint_after_each_day`, `keep_checkpoints`.
        main_client: of the run.
        manager: knows the storage.
    """

    def __init__(
        self, config: TrainerConfig, main_client: PSMainClient, manager: CheckpointManager
    ) -> None:
        self._config = config
        self._main_client = main_client
        self._manager = manager
        self._root = config.s3_checkpoint_path.rstrip("/")

    def after_day(self, session: Session, date: str) -> str | None:
        """Saves as configured; where, or None."""
        if not self._root or not self._config.checkpoint_after_each_day:
            return None
        path = f"{self._root}/dt={date}"
        self.save(session, path)
        self._prune(path)
        return path

    def save(self, session: Session, path: str) -> None:
        """Saves rows, weights, optimizer states and the run's state. No push may be under way."""
        self._main_client.save_to_s3(
            path,
            trainer=manifest_part(session.wrapper, session.state),
            trainer_files=files_of(session.wrapper, self._config),
        )

    def load(self, path: str, wrapper: Any) -> RunState | None:
        """Loads rows, weights and optimizer states; the state of the run that saved them.

        None where the checkpoint is a parameter server's, without a trainer's part.

        Raises:
            NotFoundError: no complete checkpoint there.
            ConfigurationError: it is of another model.
        """
        saved = SavedRun.read(self._manager.location(path))
        saved.check_fits(wrapper)
        self._main_client.load_from_s3(path)
        wrapper.set_weights(saved.local_weights)
        return saved.state

    def find(self, path: str) -> str | None:
        """The checkpoint that `resume_from_checkpoint` means; None: "latest", and there is none.

        Raises:
            ConfigurationError: an empty path, or "latest" without an `s3_checkpoint_path`.
        """
        check_resume(path, self._config)
        if path != LATEST:
            return path
        days = self._days()
        if not days:
            logger.warning("no checkpoint below %s: training starts from nothing", self._root)
        return days[max(days)] if days else None

    def _days(self) -> dict[str, str]:
        """date -> path of the complete checkpoints of days."""
        found = [info.s3_path for info in self._main_client.list_checkpoints(self._root)]
        dated = {path: _DAY.search(path) for path in found}
        return {match.group(1): path for path, match in dated.items() if match}

    def _prune(self, newest: str) -> None:
        """Deletes all but the days with the greatest dates; the newest one stays in any case."""
        keep = self._config.keep_checkpoints
        if keep == 0:
            return
        try:
            days = self._days()
            for date in sorted(days, reverse=True)[keep:]:
                if not newest.endswith(f"dt={date}"):
                    self._main_client.delete_checkpoint(days[date])
        except PSError as error:  # what is saved is saved
            logger.warning("old checkpoints below %s stay: %s", self._root, error)


def check_resume(path: str, config: TrainerConfig) -> None:
    """Refuses what no checkpoint can be found by, before anything starts.

    Raises:
        ConfigurationError: an empty path, or "latest" without an `s3_checkpoint_path`.
    """
    if not path:
        raise ConfigurationError(
            "resume_from_checkpoint = '': allowed is a checkpoint's path, 'latest' or None"
        )
    if path == LATEST and not config.s3_checkpoint_path:
        raise config.problem(
            "s3_checkpoint_path", "where checkpoints lie, for resume_from_checkpoint='latest'"
        )
