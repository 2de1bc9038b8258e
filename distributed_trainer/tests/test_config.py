"""Configurations: the contract's defaults, every bound, dict and JSON forms."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from distributed_trainer.config import FeatureConfig, TargetConfig, TrainerConfig, WeightConfig
from distributed_trainer.thread_config import ThreadConfig
from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.config import PSConfig

FEATURES = FeatureConfig(
    sparse_features=["user", "item", "category"],
    dense_features=["price", "age"],
    embedding_dims={"user": 64, "item": 64, "category": 16},
)


def test_importing_the_package_imports_neither_tensorflow_nor_pyspark() -> None:
    code = (
        "import sys, distributed_trainer as d\n"
        "d.TrainerConfig, d.ThreadConfig, d.BatchIterator, d.S3ParquetDataLoader, d.TrainingError\n"
        "d.TFModelWrapper\n"
        "assert not {'tensorflow', 'keras', 'pyspark'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_defaults_are_those_of_the_contract() -> None:
    config = TrainerConfig()
    config.validate()
    plain = config.to_dict()
    assert plain.pop("ps_config") == PSConfig().to_dict()
    assert plain == {
        "thread_config": {
            "mkl_num_threads": 4,
            "openmp_num_threads": 4,
            "tf_intra_op_parallelism": 4,
            "tf_inter_op_parallelism": 2,
        },
        "feature_config": {
            "sparse_features": [],
            "dense_features": [],
            "embedding_dims": {},
            "default_embedding_dim": 64,
            "shared_tables": {},
            "dense_fill": None,
        },
        "target_config": {
            "target_columns": [],
            "task_type": "binary_classification",
            "num_classes": None,
        },
        "weight_config": {
            "weight_column": None,
            "normalize_weights": False,
            "default_weight": 1.0,
        },
        "batch_size": 1024,
        "num_workers": 4,
        "shuffle_data": True,
        "shuffle_seed": None,
        "model_optimizer": "adam",
        "model_learning_rate": 0.001,
        "model_optimizer_params": {},
        "embedding_optimizer": "adagrad",
        "embedding_learning_rate": 0.01,
        "embedding_optimizer_params": {},
        "s3_data_path_template": "",
        "date_format": "%Y-%m-%d",
        "s3_checkpoint_path": "",
        "checkpoint_after_each_day": True,
        "decay_after_each_day": True,
        "decay_method": "multiply",
        "decay_factor": 0.99,
        "prune_threshold": 5,
        "log_every_n_batches": 100,
        "verbose": True,
        "progress_update_threshold": 100_000,
        "prefetch_depth": 1,
        "keep_checkpoints": 0,
        "clipnorm": None,
        "clipvalue": None,
        "embedding_clipnorm": None,
        "learning_rate_schedule": None,
    }


@pytest.mark.parametrize(
    "config",
    [
        ThreadConfig(1, 2, 3, 4),
        FEATURES,
        TargetConfig(["a"], "multiclass", 7),
        WeightConfig("w", True, 0.5),
        TrainerConfig(
            feature_config=FEATURES,
            ps_config=PSConfig(num_servers=2),
            model_optimizer_params={"beta1": 0.8},
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_dict_and_json_forms_give_an_equal_configuration(config: Any) -> None:
    assert type(config).from_dict(config.to_dict()) == config
    assert type(config).from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ThreadConfig(mkl_num_threads=0), "ThreadConfig.mkl_num_threads = 0"),
        (FeatureConfig(["a", "a"]), "sparse_features"),
        (FeatureConfig(["a"], ["a"]), "dense_features"),
        (FeatureConfig(["user"], embedding_dims={"usr": 4}), "did you mean 'user'"),
        (FeatureConfig(["a"], embedding_dims={"a": 0}), "embedding_dims"),
        (FeatureConfig(["a"], default_embedding_dim=0), "default_embedding_dim = 0"),
        (FeatureConfig(["a"], shared_tables={"b": "t"}), "shared_tables"),
        (
            FeatureConfig(["a", "b"], [], {"a": 4, "b": 8}, shared_tables={"a": "t", "b": "t"}),
            "'a' has 4, 'b' has 8",
        ),
        (FeatureConfig(["a"], dense_fill=float("nan")), "dense_fill"),
        (TargetConfig(["a"], "clustering"), "'multi_label'"),
        (TargetConfig(["a"], "multiclass"), "num_classes"),
        (TargetConfig(["a"], "regression", 4), "num_classes"),
        (TargetConfig(["a", "b"]), "target_columns"),
        (WeightConfig(default_weight=-1.0), "default_weight = -1.0"),
        (TrainerConfig(batch_size=0), "batch_size = 0"),
        (TrainerConfig(num_workers=0), "num_workers"),
        (TrainerConfig(batch_size="2"), "an integer"),
        (TrainerConfig(model_optimizer="rmsprop"), "'ftrl'"),
        (TrainerConfig(model_learning_rate=-1), "model_learning_rate"),
        (TrainerConfig(embedding_learning_rate=float("inf")), "embedding_learning_rate"),
        (TrainerConfig(decay_factor=0), "decay_factor"),
        (TrainerConfig(decay_method="halve"), "decay_method"),
        (TrainerConfig(prune_threshold=-1), "prune_threshold"),
        (TrainerConfig(prefetch_depth=-1), "prefetch_depth"),
        (TrainerConfig(date_format="%Y-%m"), "date_format"),
        (TrainerConfig(s3_data_path_template="/data/"), "{date}"),
        (TrainerConfig(clipnorm=1.0, clipvalue=1.0), "clipvalue"),
        (TrainerConfig(learning_rate_schedule=0.1), "learning_rate_schedule"),
        (TargetConfig(["a"], "multiclass", 1), "num_classes = 1"),
        (TargetConfig(["a", "a"], "multi_label"), "target_columns"),
        (WeightConfig(""), "weight_column"),
        (TrainerConfig(shuffle_seed=-1), "shuffle_seed = -1"),
        (TrainerConfig(log_every_n_batches=0), "log_every_n_batches = 0"),
        (TrainerConfig(progress_update_threshold=0), "progress_update_threshold = 0"),
        (TrainerConfig(clipnorm=0.0), "clipnorm = 0.0"),
        (TrainerConfig(clipvalue=-1.0), "clipvalue = -1.0"),
        (TrainerConfig(embedding_clipnorm=0.0), "embedding_clipnorm = 0.0"),
        (TrainerConfig(decay_factor=1.5), "decay_factor = 1.5"),
        (TrainerConfig(keep_checkpoints=-1), "keep_checkpoints"),
        (TrainerConfig(ps_config=PSConfig(num_servers=0)), "num_servers"),
        (TrainerConfig(ps_config=PSConfig(auto_decay=True)), "PSConfig.auto_decay = True"),
        (TrainerConfig(feature_config={"sparse_features": []}), "a FeatureConfig"),
        (TrainerConfig(model_optimizer_params={"beta_1": 0.9}), "did you mean 'beta1'"),
        (TrainerConfig(embedding_optimizer_params={"learning_rate": 1}), "embedding_learning_rate"),
        (
            TrainerConfig(embedding_optimizer="ftrl", embedding_optimizer_params={"alpha": 1}),
            "embedding_learning_rate",
        ),
        (
            TrainerConfig(feature_config=FeatureConfig(["a"]), target_config=TargetConfig(["a"])),
            "target_columns",
        ),
    ],
)
def test_a_refused_value_is_named_with_what_is_allowed(config: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed is") as caught:
        config.validate()
    assert told in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("cls", [FeatureConfig, TargetConfig, WeightConfig, TrainerConfig])
def test_every_field_refuses_what_is_of_no_allowed_type(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        config = cls()
        setattr(config, field.name, 3j)
        with pytest.raises(ConfigurationError, match=f"{cls.__name__}.{field.name} = 3j"):
            config.validate()


def test_unknown_keys_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        TrainerConfig.from_dict({"batchsize": 3})
    with pytest.raises(ConfigurationError, match="FeatureConfig has no field 'sparse'"):
        TrainerConfig.from_dict({"feature_config": {"sparse": []}})
    with pytest.raises(ConfigurationError, match="no valid JSON"):
        TrainerConfig.from_json("{")


def test_input_width_is_the_sum_of_embeddings_and_dense_features() -> None:
    assert FEATURES.get_total_embedding_dim() == 144
    assert FEATURES.get_total_dense_dim() == 2
    assert FEATURES.get_model_input_dim() == 146
    assert FeatureConfig(["x"]).get_embedding_dim("x") == 64
    with pytest.raises(ConfigurationError, match="'user'"):
        FEATURES.get_embedding_dim("users")


def test_each_feature_has_its_own_table_unless_shared() -> None:
    config = FeatureConfig(
        ["a", "b", "c"], [], {"a": 4, "b": 4, "c": 8}, shared_tables={"a": "t", "b": "t"}
    )
    config.validate()
    assert config.get_tables() == {"c": 8, "t": 4}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TargetConfig(["y"]), (1, "sigmoid", "binary_crossentropy")),
        (
            TargetConfig(["y"], "multiclass", 5),
            (5, "softmax", "sparse_categorical_crossentropy"),
        ),
        (TargetConfig(["a", "b"], "multi_label"), (2, "sigmoid", "binary_crossentropy")),
        (TargetConfig(["a", "b", "c"], "regression"), (3, "linear", "mse")),
    ],
)
def test_task_type_decides_output_and_loss(
    config: TargetConfig, expected: tuple[int, str, str]
) -> None:
    config.validate()
    found = (config.get_output_dim(), config.get_output_activation(), config.get_loss())
    assert found == expected


def test_optimizer_parameters_merge_in_the_contracts_order() -> None:
    config = TrainerConfig(
        feature_config=FEATURES,
        model_optimizer="adagrad",
        model_learning_rate=0.5,
        embedding_learning_rate=0.25,
        embedding_optimizer_params={"initial_accumulator": 0.2},
        ps_config=PSConfig(
            optimizer_configs={"adagrad": {"initial_accumulator": 0.3, "epsilon": 1e-3}}
        ),
    )
    dense = config.get_model_optimizer_config()
    rows = config.get_embedding_optimizer_config()
    assert (dense["learning_rate"], dense["initial_accumulator"]) == (0.5, 0.3)
    assert (rows["learning_rate"], rows["initial_accumulator"]) == (0.25, 0.2)
    assert dense["epsilon"] == rows["epsilon"] == 1e-3
    tables = config.get_table_configs()
    assert {name: table.dim for name, table in tables.items()} == FEATURES.get_tables()
    assert tables["user"].optimizer_params["learning_rate"] == 0.25
    servers = config.get_server_config()
    assert servers.weight_optimizer == "adagrad"
    assert servers.get_optimizer_config("adagrad")["learning_rate"] == 0.5
    assert config.ps_config.weight_optimizer == "adam"


def test_the_rate_of_ftrl_is_alpha() -> None:
    config = TrainerConfig(embedding_optimizer="ftrl", embedding_learning_rate=0.7)
    params = config.get_embedding_optimizer_config()
    assert params["alpha"] == 0.7
    assert "learning_rate" not in params


def test_training_needs_features_and_targets() -> None:
    with pytest.raises(ConfigurationError, match="sparse_features"):
        TrainerConfig().check_trainable()
    with pytest.raises(ConfigurationError, match="target_columns"):
        TrainerConfig(feature_config=FEATURES).check_trainable()
