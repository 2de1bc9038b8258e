"""Whether Spark has task slots for the servers and the workers: said before anything starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyspark_ps.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark import SparkContext

logger = logging.getLogger(__name__)


def check_slots(spark_context: SparkContext, servers: int, workers: int) -> None:
    """Says in time, with the numbers, when Spark has no slots for servers and workers.

    Fewer slots than workers are enough, with a warning: the workers run in waves.

    Args:
        servers: task slots that the servers hold while they run.
        workers: tasks of a day.

    Raises:
        ConfigurationError: no slot would be left for workers.
    """
    slots = count_slots(spark_context)
    if slots is None:
        return
    if slots - servers < 1:
        raise ConfigurationError(
            f"Spark has {slots} task slots and {servers} servers take one each: none is left "
            "for workers. Give Spark more executors or cores (spark.executor.instances, "
            "spark.executor.cores), or lower PSConfig.num_servers"
        )
    if slots - servers < workers:
        logger.warning(
            "%d workers share %d task slots (%d slots, %d of them taken by servers): they run "
            "in waves. Lower TrainerConfig.num_workers or give Spark more cores",
            workers,
            slots - servers,
            slots,
            servers,
        )


def count_slots(spark_context: SparkContext) -> int | None:
    """Task slots once the executors have registered; None = they come and go with demand.

    With dynamic allocation the most that Spark may start counts, where it is set.
    """
    from pyspark_ps.placement import executors

    if not executors.allocates_dynamically(spark_context):
        return sum(executor.slots for executor in executors.wait_for_executors(spark_context))
    conf = spark_context.getConf()
    most = conf.get("spark.dynamicAllocation.maxExecutors", None)
    cores = conf.get("spark.executor.cores", None)
    if most is None or cores is None:
        return None
    return int(most) * max(1, int(cores) // int(conf.get("spark.task.cpus", "1") or 1))
