"""What a cluster of parameter servers is told: servers, tables, optimizers, limits.

Importing this module imports neither NumPy nor the native core.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark_ps.errors import ConfigurationError
from pyspark_ps.utils.validation import ConfigBase, nearest_name, setting

DEFAULT_TABLE = "default"
DEFAULT_NUM_SERVERS = 4
# What the core takes: scales are float32, sizes 64-bit integers.
INIT_SCALE_MAX = 1e30
SIZE_MAX = 2**63 - 1
OPTIMIZERS = ("sgd", "adam", "adagrad", "ftrl")
EMBEDDING_INITS = ("zeros", "random", "normal")

OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "nesterov": False,
        "dampening": 0.0,
    },
    "adam": {
        "learning_rate": 0.001,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
    },
    "adagrad": {
        "learning_rate": 0.01,
        "epsilon": 1e-10,
        "initial_accumulator": 0.1,
        "weight_decay": 0.0,
    },
    "ftrl": {"alpha": 0.05, "beta": 1.0, "l1": 0.0, "l2": 0.0, "learning_rate_power": -0.5},
}

# What a hyper-parameter allows, as the core does: (in words, test of the value). Those not named
# here are >= 0.
_NOT_NEGATIVE = (">= 0", lambda value: value >= 0)
_POSITIVE = ("> 0", lambda value: value > 0)
_NOT_POSITIVE = ("<= 0", lambda value: value <= 0)
_BELOW_ONE = (">= 0 and < 1", lambda value: 0 <= value < 1)
_UNIT = ("0 to 1", lambda value: 0 <= value <= 1)
_PARAMETER_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "momentum": _UNIT,
    "dampening": _UNIT,
    "beta1": _BELOW_ONE,
    "beta2": _BELOW_ONE,
    "epsilon": _POSITIVE,
    "learning_rate_power": _NOT_POSITIVE,
}


@dataclass
class TableConfig(ConfigBase):
    """A table of embeddings. None = the `PSConfig`'s own embedding_* value.

    Attributes:
        dim: floats per embedding.
        optimizer: "sgd", "adam", "adagrad" or "ftrl".
        optimizer_params: hyper-parameters, merged over `PSConfig.optimizer_configs[optimizer]`.
        init: how new rows get their values: "zeros", "random" (uniform(-init_scale, init_scale))
            or "normal" (N(0, init_scale^2)).
        init_scale: see `init`.
    """

    dim: int = setting(at_least=1, at_most=65_536)
    optimizer: str | None = setting(None, choices=OPTIMIZERS)
    optimizer_params: dict[str, Any] = setting(factory=dict)
    init: str | None = setting(None, choices=EMBEDDING_INITS)
    init_scale: float | None = setting(None, at_least=0, at_most=INIT_SCALE_MAX)

    def check(self) -> None:
        if self.optimizer is not None:
            _merged_params(self, "optimizer_params", self.optimizer, self.optimizer_params, {})


@dataclass
class PSConfig(ConfigBase):
    """Configuration of a parameter server cluster.

    Attributes:
        num_servers: server processes.
        server_port_base: first TCP port to try; a taken one moves on to the next free one, and
            `ServerInfo` tells the real one. 0 = ephemeral ports.
        server_host: address that servers bind to and announce. None = 127.0.0.1 for servers beside
            the driver, the executor's own address for servers on executors.
        embedding_dim, embedding_init, embedding_init_scale, embedding_optimizer: the table
            "default", and what `TableConfig` leaves open.
        weight_optimizer: optimizer of the dense weights.
        batch_size: largest number of keys in one frame; a larger call goes as several frames.
        timeout_seconds: deadline of every call, retries included.
        compression, compression_algorithm: of TCP traffic, where it pays ("lz4", "zstd", "none").
        max_message_size: bytes of one frame, 256 MiB at most; a larger request travels in parts.
        auto_decay: every `decay_interval_steps`-th `PSMainClient.step()` multiplies rows and their
            counts by `decay_factor`, then takes out those with a count below `prune_threshold`.
        s3_region, s3_endpoint_url: how data on S3 is reached.
        s3_compression: of a checkpoint's files, in any storage ("zstd", "lz4", "snappy", "gzip",
            "none").
        s3_multipart_threshold: bytes from which a file goes to S3 in parts.
        s3_max_concurrency: parts under way to S3 at once, per process.
        checkpoint_path: where `checkpoint_on_shutdown` saves; any path or URL. "" = below
            s3://s3_bucket/s3_checkpoint_prefix; without s3_bucket nowhere.
        checkpoint_on_shutdown: `shutdown_servers` saves the cluster first, as
            `shutdown-<UTC time>`, when there is a place for it.
        virtual_nodes_per_server: points per server on the ring that partitions are placed by.
        max_embeddings_per_shard: rows of one server, all tables together; 0 = unlimited.
        num_worker_threads: shard threads of one server.
        optimizer_configs: hyper-parameters by optimizer; a dict given here is merged over the
            defaults.
        tables: further tables by name.
        seed: of all initial values.
        weight_replicas: servers that hold each dense tensor; the default acts as 1 where there is
            one server. An acknowledged push is on all of them (docs/guarantees.md).
        driver_silence_seconds: a server that hears nothing of its driver for so long ends; a host
            that is not heard at all for so long, at least 30 s (power, network), is given up by
            whoever has a TCP connection to it.
        metrics_port: first TCP port to try for the Prometheus endpoint of server 0, server 1 begins
            one higher, and so on; a taken one moves on to the next free one, and
            `ServerInfo.metadata["metrics_port"]` tells the real one. 0 = ephemeral, None = none.
        tls: encryption of all TCP connections between drivers, servers and workers ("on", "off";
            "auto" = on with tls_cert_file, and where Spark encrypts its own network traffic). Unix
            sockets and the Prometheus endpoint stay as they are. Servers' and their driver's is
            what counts; workers do as `ServerInfo` says.
        tls_cert_file, tls_key_file: PEM files of the servers' certificate (with its chain) and its
            key without a password. None = a certificate made for the job. Clients expect exactly
            this certificate, whoever signed it. With placement "external" every server and driver
            has the first, and the key is needed on servers only.
        server_addresses: "host:port" of every server by its id, when placement is "external"; then
            num_servers is their number (4, the default, or that number is allowed).
        secret_file: a file with a secret of 16 bytes or more, the same for external servers and for
            their drivers.
        transport: "auto" (Unix socket on the same host, else TCP), "tcp" or "unix".
        placement: "local" (children of the driver), "executors" (tasks of long-running Spark jobs),
            "auto" (local without a SparkContext and on local[...], else executors);
            "external" (started by hand: docs/external-servers.md).
    """

    num_servers: int = setting(DEFAULT_NUM_SERVERS, at_least=1, at_most=4_096)
    server_port_base: int = setting(50_000, at_least=0, at_most=65_535)
    server_host: str | None = setting(None)
    embedding_dim: int = setting(64, at_least=1, at_most=65_536)
    embedding_init: str = setting("normal", choices=EMBEDDING_INITS)
    embedding_init_scale: float = setting(0.01, at_least=0, at_most=INIT_SCALE_MAX)
    embedding_optimizer: str = setting("adagrad", choices=OPTIMIZERS)
    weight_optimizer: str = setting("adam", choices=OPTIMIZERS)
    batch_size: int = setting(10_000, at_least=1, at_most=SIZE_MAX)
    timeout_seconds: float = setting(60.0, above=0)
    compression: bool = setting(True)
    compression_algorithm: str = setting("lz4", choices=("lz4", "zstd", "none"))
    max_message_size: int = setting(104_857_600, at_least=65_536, at_most=SIZE_MAX)
    auto_decay: bool = setting(False)
    decay_interval_steps: int = setting(1_000, at_least=1)
    decay_factor: float = setting(0.99, above=0, at_most=1)
    prune_threshold: int = setting(5, at_least=0)
    s3_bucket: str = setting("")
    s3_region: str = setting("us-east-1")
    s3_endpoint_url: str | None = setting(None)
    s3_checkpoint_prefix: str = setting("checkpoints/")
    s3_compression: str = setting("zstd", choices=("zstd", "lz4", "snappy", "gzip", "none"))
    s3_multipart_threshold: int = setting(8_388_608, at_least=5_242_880)
    s3_max_concurrency: int = setting(10, at_least=1, at_most=1_000)
    checkpoint_on_shutdown: bool = setting(True)
    virtual_nodes_per_server: int = setting(150, at_least=1, at_most=10_000)
    max_embeddings_per_shard: int = setting(10_000_000, at_least=0, at_most=SIZE_MAX)
    num_worker_threads: int = setting(4, at_least=1, at_most=256)
    optimizer_configs: dict[str, dict[str, Any]] = setting(factory=dict)
    tables: dict[str, TableConfig] = setting(factory=dict)
    seed: int = setting(0, at_least=0, below=2**64)
    weight_replicas: int = setting(2, at_least=1)
    driver_silence_seconds: float = setting(60.0, above=0)
    metrics_port: int | None = setting(
        None,
        at_least=0,
        at_most=65_535,
    )
    tls: str = setting("auto", choices=("auto", "on", "off"))
    tls_cert_file: str | None = setting(None)
    tls_key_file: str | None = setting(None)
    server_addresses: list[str] = setting(factory=list)
    secret_file: str | None = setting(None)
    checkpoint_path: str = setting("")
    transport: str = setting("auto", choices=("auto", "tcp", "unix"))
    placement: str = setting("auto", choices=("auto", "local", "executors", "external"))

    def __post_init__(self) -> None:
        given: Any = self.optimizer_configs
        if not isinstance(given, Mapping):
            return  # validate() says what is wrong
        configs: dict[str, dict[str, Any]] = {
            name: dict(params) for name, params in OPTIMIZER_DEFAULTS.items()
        }
        for name, params in given.items():
            both = isinstance(params, Mapping) and name in configs
            configs[name] = _overlaid(name, configs[name], params) if both else params
        self.optimizer_configs = configs

    def check(self) -> None:
        self._check_external()
        self._check_tls()
        servers = len(self.server_addresses) or self.num_servers
        if self.weight_replicas > max(servers, 2):
            raise self.problem("weight_replicas", f"at most the number of servers, {servers}")
        if self.server_host == "":
            raise self.problem("server_host", "an address, or None")
        for name, params in self.optimizer_configs.items():
            if name not in OPTIMIZER_DEFAULTS:
                raise self.problem(
                    "optimizer_configs",
                    "optimizers' names as keys" + nearest_name(name, OPTIMIZERS),
                    name,
                )
            _merged_params(self, f"optimizer_configs[{name!r}]", name, params, {})
        for name, table in self.tables.items():
            self.check_table_name(name, "tables")
            filled = self.fill_table(table)
            if name == DEFAULT_TABLE and filled != self.default_table():
                raise self.problem(
                    "tables",
                    f"without {DEFAULT_TABLE!r}: the embedding_* fields define that table",
                    name,
                )

    def _check_external(self) -> None:
        if self.placement != "external":
            for field_name in ("server_addresses", "secret_file"):
                if getattr(self, field_name):
                    raise self.problem(field_name, "nothing, unless placement is 'external'")
            return
        count = len(self.server_addresses)
        if not count:
            raise self.problem("server_addresses", "'host:port' of every server, by its id")
        if not self.secret_file:
            raise self.problem("secret_file", "the path of the secret that the servers share")
        if self.num_servers not in (count, DEFAULT_NUM_SERVERS):
            raise self.problem("num_servers", f"{count}, as there are server_addresses")

    def _check_tls(self) -> None:
        external = self.placement == "external"
        for field_name in ("tls_cert_file", "tls_key_file"):
            if getattr(self, field_name) == "":
                raise self.problem(field_name, "a path, or None")
        if self.tls_key_file and not self.tls_cert_file:
            raise self.problem("tls_key_file", "None without tls_cert_file")
        if self.tls_cert_file and not self.tls_key_file and not external:
            raise self.problem("tls_cert_file", "None without tls_key_file")
        if self.tls == "on" and not self.tls_cert_file and external:
            raise self.problem(
                "tls_cert_file",
                "the PEM file of the servers' certificate, as tls is 'on' and placement 'external'",
            )

    def check_table_name(self, name: str, field_name: str = "tables") -> None:
        """Refuses what cannot be a table's name.

        Raises:
            ConfigurationError: not 1-128 printable characters.
        """
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or not name.isprintable():
            raise self.problem(field_name, "table names of 1-128 printable characters", name)

    def get_optimizer_config(self, name: str) -> dict[str, Any]:
        """Every hyper-parameter of an optimizer: `optimizer_configs[name]` over the defaults.

        FTRL's "learning_rate" is another name for "alpha", and comes back as "alpha".

        Raises:
            ConfigurationError: (a ValueError) an unknown optimizer, an unknown hyper-parameter or a
                value that it does not allow.
        """
        if name not in OPTIMIZER_DEFAULTS:
            raise ConfigurationError(f"no optimizer {name!r}{nearest_name(name, OPTIMIZERS)}")
        field_name = f"optimizer_configs[{name!r}]"
        given = self.optimizer_configs.get(name, {})
        return _merged_params(self, field_name, name, given, OPTIMIZER_DEFAULTS[name])

    def default_table(self) -> TableConfig:
        """Definition of the table "default", complete."""
        return self.fill_table(TableConfig(dim=self.embedding_dim))

    def all_tables(self) -> dict[str, TableConfig]:
        """Definitions of "default" and of `tables`, complete; "default" comes first."""
        filled = {name: self.fill_table(table) for name, table in self.tables.items()}
        return {DEFAULT_TABLE: self.default_table(), **filled}

    def fill_table(self, table: TableConfig) -> TableConfig:
        """`table` with everything that it leaves open filled in from this configuration.

        Raises:
            ConfigurationError: `table` is not valid.
        """
        if not isinstance(table, TableConfig):
            raise ConfigurationError(f"a table is defined by a TableConfig, not by {table!r}")
        table.validate()
        optimizer = self.embedding_optimizer if table.optimizer is None else table.optimizer
        base = self.get_optimizer_config(optimizer)
        params = _merged_params(table, "optimizer_params", optimizer, table.optimizer_params, base)
        scale = self.embedding_init_scale if table.init_scale is None else table.init_scale
        return TableConfig(
            dim=int(table.dim),
            optimizer=optimizer,
            optimizer_params=params,
            init=self.embedding_init if table.init is None else table.init,
            init_scale=float(scale),
        )

    def replace(self, **changes: Any) -> PSConfig:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)


def _overlaid(optimizer: str, base: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` over `base`; FTRL's learning_rate takes alpha's place unless both are given."""
    merged = dict(base)
    if optimizer == "ftrl" and "learning_rate" in params and "alpha" not in params:
        params = {("alpha" if k == "learning_rate" else k): v for k, v in params.items()}
    merged.update(params)
    return merged


def _merged_params(
    config: ConfigBase,
    field_name: str,
    optimizer: str,
    params: Mapping[str, Any],
    base: Mapping[str, Any],
) -> dict[str, Any]:
    """`params` checked and laid over `base`; errors name `field_name` of `config`."""
    if optimizer == "ftrl" and "learning_rate" in params and "alpha" in params:
        raise config.problem(
            field_name, "alpha or learning_rate (another name for it), not both", dict(params)
        )
    merged = _overlaid(optimizer, base, params)
    known = OPTIMIZER_DEFAULTS[optimizer]
    for name, value in merged.items():
        if name not in known:
            raise config.problem(
                field_name, f"parameters of {optimizer}{nearest_name(name, known)}", name
            )
        merged[name] = _checked_param(config, f"{field_name}[{name!r}]", name, value, known[name])
    if optimizer == "sgd":
        _check_nesterov(config, field_name, merged)
    return merged


def _checked_param(config: ConfigBase, place: str, name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, (bool, numbers.Integral)) or value not in (0, 1):
            raise config.problem(place, "True or False", value)
        return bool(value)
    words, allows = _PARAMETER_RULES.get(name, _NOT_NEGATIVE)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise config.problem(place, f"a number, {words}", value)
    try:
        exact = float(value)
    except OverflowError:
        exact = math.nan
    # Both: rows are updated with the float32 next to it.
    if not (allows(exact) and allows(_as_float32(exact))):
        raise config.problem(place, f"a finite number, {words}", value)
    return exact


def _as_float32(value: float) -> float:
    """The float32 next to `value`, which is what rows are updated with; NaN when there is none."""
    try:
        single: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.nan
    return single if math.isfinite(single) else math.nan


def _check_nesterov(config: ConfigBase, field_name: str, params: Mapping[str, Any]) -> None:
    complete = {**OPTIMIZER_DEFAULTS["sgd"], **params}
    if complete["nesterov"] and (complete["momentum"] == 0 or complete["dampening"] != 0):
        raise config.problem(
            field_name, "nesterov only with momentum > 0 and dampening 0", dict(params)
        )
