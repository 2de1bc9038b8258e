"""What a training is told: features, targets, weights, optimizers, paths.

Importing this module imports neither TensorFlow nor pyspark.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distributed_trainer.thread_config import ThreadConfig
from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.config import PSConfig, TableConfig
from pyspark_ps.utils.validation import ConfigBase, nearest_name, setting

TASK_TYPES = ("binary_classification", "multiclass", "multi_label", "regression")
OPTIMIZERS = ("sgd", "adam", "adagrad", "ftrl")


@dataclass
class FeatureConfig(ConfigBase):
    """Which columns go into the model.

    Attributes:
        sparse_features: columns of ids (integers, booleans, strings, binary, or lists of these);
            each becomes an embedding.
        dense_features: numeric columns.
        embedding_dims: feature -> floats per embedding; the others have `default_embedding_dim`.
        shared_tables: feature -> table. Features of one table share its rows and must agree on
            their dim. A feature that is not named here has a table of its own, named as itself.
        dense_fill: replaces null, NaN and infinite values of dense columns; None = such a value is
            an error that names file and column.
    """

    sparse_features: list[str] = setting(factory=list)
    dense_features: list[str] = setting(factory=list)
    embedding_dims: dict[str, int] = setting(factory=dict, at_least=1)
    default_embedding_dim: int = setting(64, at_least=1)
    shared_tables: dict[str, str] = setting(factory=dict)
    dense_fill: float | None = setting(None)

    def check(self) -> None:
        for field_name in ("sparse_features", "dense_features"):
            names = getattr(self, field_name)
            for name in names:
                if not name or names.count(name) > 1:
                    raise self.problem(
                        field_name, f"non-empty names, each once; {name!r} is not", names
                    )
        both = set(self.sparse_features) & set(self.dense_features)
        if both:
            raise self.problem(
                "dense_features", f"names that are not sparse_features too: {sorted(both)}"
            )
        for field_name in ("embedding_dims", "shared_tables"):
            for name in getattr(self, field_name):
                if name not in self.sparse_features:
                    raise self.problem(
                        field_name,
                        f"names of sparse_features; {name!r} is none"
                        + nearest_name(name, self.sparse_features),
                    )
        self._check_shared_dims()

    def _check_shared_dims(self) -> None:
        first: dict[str, str] = {}
        for feature in self.sparse_features:
            table = self.get_table(feature)
            if not 1 <= len(table) <= 128 or not table.isprintable():
                raise self.problem("shared_tables", "table names of 1-128 printable characters")
            other = first.setdefault(table, feature)
            if self.get_embedding_dim(other) != self.get_embedding_dim(feature):
                raise self.problem(
                    "embedding_dims",
                    f"one dim for all features of table {table!r}: {other!r} has "
                    f"{self.get_embedding_dim(other)}, {feature!r} has "
                    f"{self.get_embedding_dim(feature)}",
                )

    def get_embedding_dim(self, feature: str) -> int:
        """Floats per embedding of a sparse feature.

        Raises:
            ConfigurationError: not one of `sparse_features`.
        """
        if feature not in self.sparse_features:
            raise ConfigurationError(
                f"{feature!r} is no sparse feature{nearest_name(feature, self.sparse_features)}"
            )
        return self.embedding_dims.get(feature, self.default_embedding_dim)

    def get_total_embedding_dim(self) -> int:
        """Floats of all embeddings of one sample."""
        return sum(self.get_embedding_dim(feature) for feature in self.sparse_features)

    def get_total_dense_dim(self) -> int:
        """Dense features of one sample."""
        return len(self.dense_features)

    def get_model_input_dim(self) -> int:
        """Width of the model's input: embeddings and dense features."""
        return self.get_total_embedding_dim() + self.get_total_dense_dim()

    def get_table(self, feature: str) -> str:
        """The table that holds the rows of a sparse feature."""
        return self.shared_tables.get(feature, feature)

    def get_tables(self) -> dict[str, int]:
        """All tables in sorted order -> dim."""
        return {
            self.get_table(feature): self.get_embedding_dim(feature)
            for feature in sorted(self.sparse_features, key=self.get_table)
        }


@dataclass
class TargetConfig(ConfigBase):
    """What the model learns.

    Attributes:
        target_columns: numeric columns; one for binary_classification and multiclass.
        task_type: binary_classification, multiclass, multi_label or regression.
        num_classes: classes of multiclass, whose target is an integer in [0, num_classes).
    """

    target_columns: list[str] = setting(factory=list)
    task_type: str = setting("binary_classification", choices=TASK_TYPES)
    num_classes: int | None = setting(None, at_least=2)

    def check(self) -> None:
        names = self.target_columns
        for name in names:
            if not name or names.count(name) > 1:
                raise self.problem("target_columns", f"non-empty names, each once; not {name!r}")
        if self.task_type in ("binary_classification", "multiclass") and len(names) > 1:
            raise self.problem("target_columns", f"one column for task_type {self.task_type!r}")
        if self.task_type == "multiclass" and self.num_classes is None:
            raise self.problem("num_classes", "an integer, >= 2, for task_type 'multiclass'")
        binary = self.task_type == "binary_classification" and self.num_classes == 2
        if self.task_type != "multiclass" and self.num_classes is not None and not binary:
            raise self.problem("num_classes", f"None for task_type {self.task_type!r}")

    def get_output_dim(self) -> int:
        """Width of the model's output.

        Raises:
            ConfigurationError: multiclass without num_classes.
        """
        if self.task_type == "binary_classification":
            return 1
        if self.task_type == "multiclass":
            if self.num_classes is None:
                raise self.problem("num_classes", "an integer, >= 2, for task_type 'multiclass'")
            return self.num_classes
        return len(self.target_columns)

    def get_output_activation(self) -> str:
        """Keras name of the activation that the loss expects of the output."""
        return {"multiclass": "softmax", "regression": "linear"}.get(self.task_type, "sigmoid")

    def get_loss(self) -> str:
        """Keras name of the loss."""
        return {"multiclass": "sparse_categorical_crossentropy", "regression": "mse"}.get(
            self.task_type, "binary_crossentropy"
        )


@dataclass
class WeightConfig(ConfigBase):
    """How much each sample counts.

    Attributes:
        weight_column: numeric column; None = every row has `default_weight`. Negative, NaN and
            infinite weights are an error.
        normalize_weights: scales the weights of each batch to add up to its number of rows.
        default_weight: stands for a null.
    """

    weight_column: str | None = setting(None)
    normalize_weights: bool = setting(False)
    default_weight: float = setting(1.0, at_least=0)

    def has_weights(self) -> bool:
        """Whether the data carry a weight column."""
        return self.weight_column is not None

    def check(self) -> None:
        if self.weight_column == "":
            raise self.problem("weight_column", "a column's name, or None for no weights")


def _schedule_to_plain(schedule: Any) -> Any:
    if schedule is None or isinstance(schedule, Mapping):
        return schedule
    import keras

    try:
        plain: dict[str, Any] = keras.optimizers.schedules.serialize(schedule)
    except Exception as error:
        raise ConfigurationError(
            f"TrainerConfig.learning_rate_schedule: Keras cannot serialize {schedule!r}: {error}"
        ) from error
    return plain


@dataclass
class TrainerConfig(ConfigBase):
    """Everything a training is told.

    The optimizer fields here win over `ps_config`'s for the trainer's tables and dense weights.

    Attributes:
        shuffle_seed: seed of all that is random in a run; None = drawn once on the driver.
        date_format: how a date stands in the path (`strftime`).
        s3_checkpoint_path: any path or URL; each day's checkpoint lies below it as `dt=YYYY-MM-DD`.
            "" = no checkpoints.
        decay_method: "multiply" (by `decay_factor`) or "prune" (rows whose count is below
            `prune_threshold`).
        log_every_n_batches: how often a worker logs how far it is.
        verbose: shows progress and a table of the days, and what workers log.
        progress_update_threshold: rows of a running day that must be new to be shown.
        keep_checkpoints: checkpoints of days that are kept, those of the greatest dates; 0 = all.
        prefetch_depth: batches pulled ahead of the one being computed; 0 = strictly synchronous.
        clipnorm: largest L2 norm of the gradient of each dense weight (as Keras' clipnorm).
        clipvalue: largest absolute value in the gradients of dense weights (as Keras' clipvalue).
        embedding_clipnorm: largest L2 norm of the gradient of each embedding row of a batch, taken
            after the gradients of repeated ids were summed.
        learning_rate_schedule: a Keras LearningRateSchedule (or its serialized dict). Its value is
            the learning rate of the dense weights; rows are scaled alike, so their rate is
            embedding_learning_rate * schedule(step) / model_learning_rate.
    """

    thread_config: ThreadConfig = setting(factory=ThreadConfig)
    feature_config: FeatureConfig = setting(factory=FeatureConfig)
    target_config: TargetConfig = setting(factory=TargetConfig)
    weight_config: WeightConfig = setting(factory=WeightConfig)
    batch_size: int = setting(1024, at_least=1)
    num_workers: int = setting(4, at_least=1)
    shuffle_data: bool = setting(True)
    shuffle_seed: int | None = setting(None, at_least=0, at_most=2**63 - 1)
    model_optimizer: str = setting("adam", choices=OPTIMIZERS)
    model_learning_rate: float = setting(0.001, at_least=0)
    model_optimizer_params: dict[str, Any] = setting(factory=dict)
    embedding_optimizer: str = setting("adagrad", choices=OPTIMIZERS)
    embedding_learning_rate: float = setting(0.01, at_least=0)
    embedding_optimizer_params: dict[str, Any] = setting(factory=dict)
    ps_config: PSConfig = setting(factory=PSConfig)
    s3_data_path_template: str = setting("")
    date_format: str = setting("%Y-%m-%d")
    s3_checkpoint_path: str = setting("")
    checkpoint_after_each_day: bool = setting(True)
    decay_after_each_day: bool = setting(True)
    decay_method: str = setting("multiply", choices=("multiply", "prune"))
    decay_factor: float = setting(0.99, above=0, at_most=1)
    prune_threshold: int = setting(5, at_least=0)
    log_every_n_batches: int = setting(100, at_least=1)
    verbose: bool = setting(True)
    progress_update_threshold: int = setting(100_000, at_least=1)
    prefetch_depth: int = setting(1, at_least=0)
    keep_checkpoints: int = setting(0, at_least=0)
    clipnorm: float | None = setting(None, above=0)
    clipvalue: float | None = setting(None, above=0)
    embedding_clipnorm: float | None = setting(None, above=0)
    learning_rate_schedule: Any = setting(None, to_plain=_schedule_to_plain)

    def check(self) -> None:
        if self.clipnorm is not None and self.clipvalue is not None:
            raise self.problem("clipvalue", "None when clipnorm is set (one of the two, as Keras)")
        schedule = self.learning_rate_schedule
        if schedule is not None:
            if not (isinstance(schedule, Mapping) or hasattr(schedule, "get_config")):
                raise self.problem("learning_rate_schedule", "a Keras LearningRateSchedule or None")
            if self.model_learning_rate == 0:
                raise self.problem(
                    "model_learning_rate", "> 0 with a learning_rate_schedule (it is the divisor)"
                )
        if self.ps_config.auto_decay:
            raise self.ps_config.problem(
                "auto_decay",
                "False in a training, which decays after each day (decay_after_each_day); nobody "
                "calls step() there",
            )
        self._check_date_format()
        if self.s3_data_path_template and "{date}" not in self.s3_data_path_template:
            raise self.problem("s3_data_path_template", "a path that contains {date}")
        self._check_columns()
        self.get_model_optimizer_config()
        self.get_embedding_optimizer_config()

    def _check_date_format(self) -> None:
        day = datetime.date(2013, 11, 28)
        try:
            read_back = datetime.datetime.strptime(day.strftime(self.date_format), self.date_format)
        except ValueError:
            read_back = None
        if read_back is None or read_back.date() != day:
            raise self.problem("date_format", "a strftime format that names one day")

    def _check_columns(self) -> None:
        inputs = {*self.feature_config.sparse_features, *self.feature_config.dense_features}
        leaked = inputs & set(self.target_config.target_columns)
        if leaked:
            raise self.target_config.problem(
                "target_columns", f"columns that are no features: {sorted(leaked)} is one"
            )

    def check_trainable(self) -> None:
        """What training needs beyond `validate`: at least one feature and one target.

        Raises:
            ConfigurationError: names the field that is missing.
        """
        if self.feature_config.get_model_input_dim() == 0:
            raise self.feature_config.problem("sparse_features", "at least one feature to train on")
        if not self.target_config.target_columns:
            raise self.target_config.problem("target_columns", "at least one column to train on")

    def get_model_optimizer_config(self) -> dict[str, Any]:
        """Hyper-parameters of `model_optimizer` for the dense weights, complete.

        `ps_config.optimizer_configs[name]`, then `model_optimizer_params`, then
        `model_learning_rate` (of ftrl: alpha).

        Raises:
            ConfigurationError: an unknown parameter, or a rate in the params as well.
        """
        return self._optimizer_config(
            "model_optimizer_params",
            self.model_optimizer,
            self.model_optimizer_params,
            self.model_learning_rate,
        )

    def get_embedding_optimizer_config(self) -> dict[str, Any]:
        """Hyper-parameters of `embedding_optimizer` for the trainer's tables, complete."""
        return self._optimizer_config(
            "embedding_optimizer_params",
            self.embedding_optimizer,
            self.embedding_optimizer_params,
            self.embedding_learning_rate,
        )

    def _optimizer_config(
        self, field_name: str, optimizer: str, params: Mapping[str, Any], rate: float
    ) -> dict[str, Any]:
        merged = dict(self.ps_config.get_optimizer_config(optimizer))
        rate_field = field_name.replace("optimizer_params", "learning_rate")
        for name in params:
            if name in ("learning_rate", "alpha"):
                raise self.problem(field_name, f"without {name!r}: {rate_field} says it")
            if name not in merged:
                raise self.problem(
                    field_name, f"parameters of {optimizer!r}{nearest_name(name, merged)}"
                )
        merged.update(params)
        merged.pop("learning_rate", None)
        merged["alpha" if optimizer == "ftrl" else "learning_rate"] = rate
        return merged

    def get_table_configs(self) -> dict[str, TableConfig]:
        """Definitions of the trainer's tables, in sorted order; optimizer parameters complete.

        The initializer of a table that `ps_config.tables` names is the one given there.
        """
        params = self.get_embedding_optimizer_config()
        tables = {}
        for name, dim in self.feature_config.get_tables().items():
            given = self.ps_config.tables.get(name, TableConfig(dim))
            tables[name] = replace(
                given, dim=dim, optimizer=self.embedding_optimizer, optimizer_params=dict(params)
            )
        return tables

    def get_server_config(self) -> PSConfig:
        """`ps_config` with the trainer's tables, and its optimizer for the dense weights."""
        ps_config = self.ps_config
        configs = {name: dict(params) for name, params in ps_config.optimizer_configs.items()}
        configs[self.model_optimizer] = self.get_model_optimizer_config()
        return replace(
            ps_config,
            weight_optimizer=self.model_optimizer,
            optimizer_configs=configs,
            tables={**ps_config.tables, **self.get_table_configs()},
        )
