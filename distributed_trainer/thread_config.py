"""Thread counts of a worker: MKL, OpenMP and TensorFlow.

The libraries read their environment variables once, when they are first loaded, so a worker calls
`configure_threads` before anything imports TensorFlow.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, fields, replace

from pyspark_ps.errors import InvalidArgumentError
from pyspark_ps.utils.validation import ConfigBase, setting

_logger = logging.getLogger(__name__)


@dataclass
class ThreadConfig(ConfigBase):
    """Threads that one worker process may use, per library."""

    mkl_num_threads: int = setting(4, at_least=1)
    openmp_num_threads: int = setting(4, at_least=1)
    tf_intra_op_parallelism: int = setting(4, at_least=1)
    tf_inter_op_parallelism: int = setting(2, at_least=1)

    def within_cores(self) -> ThreadConfig:
        """The same, but no count above the cores this process may use: more threads only spin."""
        cores = len(os.sched_getaffinity(0))
        counts = {one.name: min(getattr(self, one.name), cores) for one in fields(self)}
        return replace(self, **counts)


def configure_threads(config: ThreadConfig) -> None:
    """Sets the environment variables that the numeric libraries read when they are loaded.

    Where TensorFlow is imported already its own setters are used as long as it accepts them; once
    it has run an operation they come too late, which is said in a warning.

    Raises:
        ConfigurationError: a count below 1.
    """
    config.validate()
    os.environ["MKL_NUM_THREADS"] = str(config.mkl_num_threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(config.openmp_num_threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(config.tf_intra_op_parallelism)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(config.tf_inter_op_parallelism)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and hasattr(tensorflow, "config"):
        _configure_loaded_tensorflow(tensorflow.config.threading, config)


def _configure_loaded_tensorflow(threading: object, config: ThreadConfig) -> None:
    wanted = (config.tf_intra_op_parallelism, config.tf_inter_op_parallelism)
    running = (
        threading.get_intra_op_parallelism_threads(),  # type: ignore[attr-defined]
        threading.get_inter_op_parallelism_threads(),  # type: ignore[attr-defined]
    )
    if running == wanted:
        return
    try:
        threading.set_intra_op_parallelism_threads(wanted[0])  # type: ignore[attr-defined]
        threading.set_inter_op_parallelism_threads(wanted[1])  # type: ignore[attr-defined]
    except RuntimeError as error:
        _logger.warning(
            "too late to change TensorFlow's threads to intra-op %d, inter-op %d: it has run "
            "operations already (%s); call configure_threads before using TensorFlow",
            wanted[0],
            wanted[1],
            error,
        )


def get_optimal_thread_config(num_cores: int, num_workers_per_node: int = 1) -> ThreadConfig:
    """Shares nine tenths of a node's cores among its workers.

    Args:
        num_cores: cores of the node, at least 1.
        num_workers_per_node: workers that run on it at once, at least 1.

    Raises:
        InvalidArgumentError: a number below 1.
    """
    for name, value in (
        ("num_cores", num_cores),
        ("num_workers_per_node", num_workers_per_node),
    ):
        if value < 1:
            raise InvalidArgumentError(f"{name} = {value!r}: allowed is an integer, >= 1")
    usable = max(1, num_cores * 9 // 10)
    per_worker = max(1, usable // num_workers_per_node)
    intra = max(1, per_worker * 3 // 4)
    return ThreadConfig(
        mkl_num_threads=per_worker,
        openmp_num_threads=per_worker,
        tf_intra_op_parallelism=intra,
        tf_inter_op_parallelism=max(1, per_worker - intra),
    )
