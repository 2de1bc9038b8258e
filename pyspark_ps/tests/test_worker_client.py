"""PSWorkerClient against real server processes."""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pyspark_ps import PSConfig, PSMainClient, PSWorkerClient, TableConfig, errors, keys_of
from pyspark_ps.communication import ServerInfo

DIM = 4
SGD = {"sgd": {"learning_rate": 1.0, "momentum": 0.0}}


@pytest.fixture(scope="module")
def config() -> PSConfig:
    # SGD at rate 1: a push of g subtracts g.
    return PSConfig(
        num_servers=2,
        server_port_base=0,
        embedding_dim=DIM,
        embedding_optimizer="sgd",
        weight_optimizer="sgd",
        optimizer_configs=SGD,
        tables={"narrow": TableConfig(dim=3)},
        num_worker_threads=1,
        batch_size=100,
        timeout_seconds=20.0,
    )


@pytest.fixture(scope="module")
def main(config) -> Iterator[PSMainClient]:
    with PSMainClient(None, config) as started:
        yield started


@pytest.fixture
def worker(main, config) -> Iterator[PSWorkerClient]:
    with PSWorkerClient(main.get_server_info(), config) as client:
        yield client


@pytest.fixture
def ids(request) -> list[str]:
    """Ids that no other test uses."""
    return [f"{request.node.name}/{i}" for i in range(5)]


# --- pulling


def test_rows_come_in_input_order_and_repeated_ids_give_equal_rows(worker, ids):
    rows = worker.pull_embeddings([ids[0], ids[1], ids[0]])
    assert rows.shape == (3, DIM)
    assert rows.dtype == np.float32
    assert (rows[0] == rows[2]).all()
    assert (rows[0] != rows[1]).any()
    assert (worker.pull_embeddings([ids[1]])[0] == rows[1]).all()


def test_the_array_is_the_callers_own(worker, ids):
    rows = worker.pull_embeddings(ids)
    rows[:] = 7.0
    assert (worker.pull_embeddings(ids) != 7.0).all()


def test_all_forms_of_ids_mean_the_same_rows(worker, ids):
    expected = worker.pull_embeddings(ids)
    for form in (np.array(ids), np.array(ids, object), pa.array(ids), pa.chunked_array([ids])):
        assert (worker.pull_embeddings(form) == expected).all()
    rows, _ = worker.pull({"default": keys_of(ids)})
    assert (rows["default"] == expected).all()


def test_no_ids_give_an_empty_array(worker):
    assert worker.pull_embeddings([]).shape == (0, DIM)
    assert worker.pull_embeddings([], table="narrow").shape == (0, 3)


def test_unknown_ids_are_zeros_and_stay_unknown_unless_made(worker, ids):
    count = worker.get_embedding_count()
    assert (worker.pull_embeddings(ids, create_if_missing=False) == 0).all()
    assert worker.get_embedding_count() == count
    worker.pull_embeddings(ids)
    assert worker.get_embedding_count() == count + len(ids)


def test_calls_larger_than_a_frame_come_whole(worker):
    keys = np.arange(10_000, dtype=np.uint64)
    rows = worker.pull_embeddings(keys)
    order = np.random.default_rng(0).permutation(len(keys))
    assert (worker.pull_embeddings(keys[order]) == rows[order]).all()


def test_a_table_that_does_not_exist_is_named_with_those_that_do(worker):
    with pytest.raises(errors.NotFoundError, match=r"'nowhere'.*'default'.*'narrow'"):
        worker.pull_embeddings([1], table="nowhere")


# --- pushing


@pytest.mark.parametrize(
    "form",
    [
        lambda i: {i[0]: np.ones(DIM), i[1]: [2.0] * DIM},
        lambda i: (i[:2], np.array([[1.0] * DIM, [2.0] * DIM])),
        lambda i: {"default": (i[:2], [[1] * DIM, [2] * DIM])},
        lambda i: {"default": (keys_of(i[:2]), np.array([[1] * DIM, [2] * DIM], np.int8))},
        lambda i: ([i[0], i[1], i[1]], np.ones((3, DIM), np.float16)),
        lambda i: (pa.array(i[:2]), np.asfortranarray([[1.0] * DIM, [2.0] * DIM])),
    ],
)
def test_every_form_of_row_gradients_is_applied(worker, ids, form):
    before = worker.pull_embeddings(ids)
    worker.push_gradients(None, form(ids))
    after = worker.pull_embeddings(ids)
    assert after[0] == pytest.approx(before[0] - 1.0)
    assert after[1] == pytest.approx(before[1] - 2.0)
    assert (after[2:] == before[2:]).all()


def test_push_embedding_gradients_takes_a_table(worker, ids):
    before = worker.pull_embeddings(ids, table="narrow")
    worker.push_embedding_gradients((ids, np.ones((5, 3))), table="narrow")
    worker.push_embedding_gradients({ids[0]: np.ones(3)}, table="narrow")
    worker.push_embedding_gradients({"narrow": ([ids[1]], np.ones((1, 3)))})
    after = worker.pull_embeddings(ids, table="narrow")
    assert after == pytest.approx(before - np.array([[2], [2], [1], [1], [1]]))


def test_weights_and_rows_are_pushed_in_one_call(worker, ids):
    worker.define_weights({"both/w": np.zeros((2, 3)), "both/b": np.float64(1.0)})
    before = worker.pull_embeddings(ids)
    worker.push_gradients(
        {"both/w": np.ones((2, 3)), "both/b": 0.5}, {ids[0]: np.ones(DIM)}, 0.25, 32
    )
    weights = worker.pull_model(["both/w", "both/b"])
    assert (weights["both/w"] == -1.0).all()
    assert weights["both/b"].shape == ()
    assert weights["both/b"] == 0.5
    assert worker.pull_embeddings(ids)[0] == pytest.approx(before[0] - 1)
    stats = worker.get_stats()
    assert (stats["batches"], stats["samples"], stats["mean_loss"]) == (1, 32, 0.25)


def test_empty_parts_are_skipped(worker):
    for weights in (None, {}):
        for rows in (None, {}, ([], []), ([], np.empty((0, DIM))), {"narrow": ([], [])}):
            worker.push_gradients(weights, rows)


def test_rate_scale_scales_every_rate_of_a_push(worker, ids):
    worker.define_weights({"scaled": np.zeros(1)})
    before = worker.pull_embeddings(ids[:1])
    gradients = {"scaled": [1.0]}, {ids[0]: np.ones(DIM)}
    worker.push_gradients(*gradients, rate_scale=0.25)
    assert worker.pull_model(["scaled"])["scaled"] == -0.25
    assert worker.pull_embeddings(ids[:1]) == pytest.approx(before - 0.25)
    for wrong in (-1.0, math.nan, math.inf, "1"):
        with pytest.raises(errors.InvalidArgumentError, match="rate_scale"):
            worker.push_gradients(*gradients, rate_scale=wrong)


GOOD = np.ones((2, DIM), np.float32)


def with_value(value, dtype=np.float64):
    values = np.ones((2, DIM), dtype)
    values[1, 2] = value
    return values


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((["a", "b"], with_value(math.nan, np.float32)), ["'default'", "(1, 2)", "nan"]),
        ((["a", "b"], with_value(math.inf)), ["'default'", "(1, 2)", "inf"]),
        ((["a", "b"], with_value(1e300)), ["(1, 2)", "1e+300", "float32"]),
        ((["a", "a"], np.full((2, DIM), 3e38, np.float32)), ["infinite"]),
        ((["a", "b"], GOOD.astype(complex)), ["complex"]),
        ((["a", "b"], GOOD.astype(str)), ["refused"]),
        ((["a", "b"], GOOD.astype(object)), ["object"]),
        ((["a", "b"], [[1.0], [1.0, 2.0]]), ["'default'"]),
        ((["a", "b"], GOOD[:, :3]), ["(2, 3)", "(2, 4)"]),
        ((["a"], GOOD), ["(2, 4)", "(1, 4)"]),
        ((["a", "b", "c"], np.ones(DIM)), ["(4,)"]),
        ({"a": np.ones(DIM), "b": np.ones(3)}, ["'b'", "(3,)"]),
        ({"a": np.ones(3)}, ["(1, 3)"]),
        ({"narrow": (["a"], np.ones((1, 3))), "b": np.ones(DIM)}, ["mix"]),
        ({"narrow": (["a"],)}, ["tuple of 1"]),
        ((["a", 2.5], GOOD), ["position 1"]),
        ([["a", "b"], GOOD], ["list"]),
        (5, ["int"]),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_a_refused_push_says_what_is_wrong_and_changes_nothing(worker, rows, words):
    worker.define_weights({"refused": np.zeros(2)})
    before = worker.pull_embeddings(["a", "b", "c"])
    with pytest.raises(errors.InvalidArgumentError) as raised:
        # The weight's gradient is fine: it must not arrive either.
        worker.push_gradients({"refused": np.ones(2)}, rows)
    for word in words:
        assert word in str(raised.value)
    assert (worker.pull_model(["refused"])["refused"] == 0).all()
    assert (worker.pull_embeddings(["a", "b", "c"]) == before).all()


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (np.ones(3), ["'fine'", "(3,)", "(2,)"]),
        (np.ones((2, 1)), ["(2, 1)"]),
        ([1.0, math.nan], ["'fine'", "nan"]),
        (np.array([1.0, -math.inf], np.float32), ["'fine'", "inf"]),
    ],
)
def test_a_wrong_weight_gradient_is_refused_before_rows_are_sent(worker, ids, gradient, words):
    worker.define_weights({"fine": np.zeros(2)})
    before = worker.pull_embeddings(ids)
    with pytest.raises(errors.InvalidArgumentError) as raised:
        worker.push_gradients({"fine": gradient}, (ids, np.ones((5, DIM))))
    for word in words:
        assert word in str(raised.value)
    assert (worker.pull_embeddings(ids) == before).all()


def test_an_unknown_weight_is_named_with_those_that_exist(worker):
    worker.define_weights({"known": np.zeros(1)})
    for call in (
        lambda: worker.push_weight_gradients({"unknown": [1.0]}),
        lambda: worker.pull_model(["unknown"]),
        lambda: worker.assign_weights({"unknown": np.ones(1)}),
    ):
        with pytest.raises(errors.NotFoundError, match=r"'unknown'.*'known'"):
            call()


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1"])
def test_batch_size_is_a_positive_integer(worker, size):
    with pytest.raises(errors.InvalidArgumentError, match="batch_size"):
        worker.push_gradients(None, None, 0.5, size)


# --- streams


def test_a_repeated_stream_applies_only_what_is_missing(main, config, worker, ids):
    before = worker.pull_embeddings(ids)

    def push(client: PSWorkerClient, pushes: int, name: str = "day-1/unit-7") -> None:
        with client.stream(name):
            for _ in range(pushes):
                client.push_gradients(None, (ids, np.ones((5, DIM))))

    push(worker, 2)
    with PSWorkerClient(main.get_server_info(), config) as retry:
        push(retry, 3)  # the first two are known
    assert worker.pull_embeddings(ids) == pytest.approx(before - 3, abs=1e-5)
    push(worker, 1, "another")
    worker.push_gradients(None, (ids, np.ones((5, DIM))))  # outside: always new
    assert worker.pull_embeddings(ids) == pytest.approx(before - 5, abs=1e-5)
    worker.end_streams(["day-1/unit-7", "another"])
    with pytest.raises(errors.InvalidArgumentError, match="had ended"):
        push(worker, 1)
    assert worker.pull_embeddings(ids) == pytest.approx(before - 5, abs=1e-5)


def test_a_push_refused_here_takes_no_number(worker, ids):
    before = worker.pull_embeddings(ids)
    with worker.stream("refused-here"):
        with pytest.raises(errors.InvalidArgumentError):
            worker.push_gradients(None, (ids, np.full((5, DIM), math.nan)))
        worker.push_gradients(None, (ids, np.ones((5, DIM))))
    with worker.stream("refused-here"):
        worker.push_gradients(None, (ids, np.ones((5, DIM))))
    assert worker.pull_embeddings(ids) == pytest.approx(before - 1, abs=1e-5)
    worker.end_streams(["refused-here"])


def test_a_stream_belongs_to_the_thread_that_opened_it(worker, ids):
    before = worker.pull_embeddings(ids)

    def push_in_another_thread() -> None:
        worker.push_gradients(None, (ids, np.ones((5, DIM))))

    with worker.stream("mine"):
        for _ in range(2):
            thread = threading.Thread(target=push_in_another_thread)
            thread.start()
            thread.join()
        worker.push_gradients(None, (ids, np.ones((5, DIM))))
    assert worker.pull_embeddings(ids) == pytest.approx(before - 3, abs=1e-5)
    worker.end_streams(["mine"])


# --- dense weights and tables


def test_the_first_to_define_a_weight_wins(main, config, worker):
    values = np.arange(6.0).reshape(2, 3)
    assert worker.define_weights({"first": values}) == ["first"]
    with PSWorkerClient(main.get_server_info(), config) as other:
        assert other.define_weights({"first": values + 1, "second": [1.0]}) == ["second"]
        assert (other.pull_model(["first"])["first"] == values).all()
        assert other.define_weights({"first": values + 1}, overwrite=True) == []
        assert other.get_weight_shapes()["first"] == (2, 3)
    assert (worker.pull_model(["first"])["first"] == values + 1).all()
    with pytest.raises(errors.InvalidArgumentError, match="first"):
        worker.define_weights({"first": np.zeros(6)})


def test_clients_that_define_at_once_end_with_the_same_values(main, config):
    clients = [PSWorkerClient(main.get_server_info(), config) for _ in range(3)]
    seen: list[np.ndarray] = []

    def define(client: PSWorkerClient, value: float) -> None:
        client.define_weights({"raced": np.full((300, 100), value)})
        seen.append(client.pull_model(["raced"])["raced"])

    threads = [
        threading.Thread(target=define, args=(client, float(i))) for i, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3
    assert all((values == seen[0][0, 0]).all() for values in seen)
    for client in clients:
        client.close()


def test_weights_that_have_not_changed_are_the_same_memory(worker):
    worker.define_weights({"still": np.ones(1000), "moving": np.ones(1000)})
    _, first = worker.pull({}, ["still", "moving"])
    worker.push_gradients({"moving": np.ones(1000)}, None)
    received = worker.get_stats()["bytes_received"]
    _, second = worker.pull({}, ["still", "moving"])
    assert worker.get_stats()["bytes_received"] - received < 5_000
    assert np.shares_memory(first["still"], second["still"])
    assert (first["moving"] == 1).all()
    assert (second["moving"] == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        second["moving"][0] = 1
    worker.pull_model(["moving"])["moving"][0] = 1


def test_assigned_weights_and_those_of_other_clients_are_seen(main, worker):
    main.init_weights({"late": (2, 2)}, "ones")
    assert (worker.pull_model()["late"] == 1).all()
    worker.assign_weights({"late": np.full((2, 2), 3.0)})
    assert (worker.pull({}, True)[1]["late"] == 3).all()
    with pytest.raises(errors.InvalidArgumentError, match="late"):
        worker.assign_weights({"late": np.ones(4)})
    with pytest.raises(errors.InvalidArgumentError, match="late"):
        worker.assign_weights({"late": np.full((2, 2), np.nan)})


def test_tables_are_made_once_and_known_to_all(main, config, worker):
    table = TableConfig(dim=2, optimizer="adam", optimizer_params={"amsgrad": True})
    worker.create_table("made", table)
    worker.create_table("made", table)
    with PSWorkerClient(main.get_server_info(), config) as other:
        assert other.pull_embeddings([1], table="made").shape == (1, 2)
        tables = other.get_tables()
    assert set(tables) >= {"default", "narrow", "made"}
    assert tables["made"] == config.fill_table(table)
    assert tables["made"].optimizer_params["amsgrad"] is True
    assert tables == worker.get_tables() == main.get_tables()
    with pytest.raises(errors.InvalidArgumentError, match="made"):
        worker.create_table("made", TableConfig(dim=3))


# --- life


def test_after_close_every_call_raises_closed(main, config):
    worker = PSWorkerClient(main.get_server_info(), config)
    worker.pull_embeddings([1])
    worker.close()
    worker.close()
    calls = [
        lambda: worker.pull_embeddings([1]),
        lambda: worker.pull_model(),
        lambda: worker.push_gradients(None, {1: np.ones(DIM)}),
        lambda: worker.push_gradients(None, None),
        lambda: worker.get_tables(),
        lambda: worker.create_table("t", TableConfig(dim=2)),
        lambda: worker.get_embedding_count(),
        lambda: worker.end_streams(["x"]),
        lambda: worker.get_weight_shapes(),
        lambda: worker.define_weights({"x": np.ones(1)}),
    ]
    for call in calls:
        with pytest.raises(errors.ClosedError):
            call()


def test_arguments_travel_and_the_client_says_that_it_does_not(main, config, worker):
    infos = main.get_server_info()
    for sent in (pickle.loads(pickle.dumps(infos)), [info.to_dict() for info in infos]):
        with PSWorkerClient(sent, PSConfig.from_dict(config.to_dict()), "named") as client:
            assert client.client_id == "named"
            assert client.pull_embeddings([1]).shape == (1, DIM)
    with pytest.raises(TypeError, match="server_info"):
        pickle.dumps(worker)


@pytest.mark.parametrize(
    "change",
    [
        lambda infos: [],
        lambda infos: infos[1:],
        lambda infos: infos[0],
        lambda infos: ["127.0.0.1:50000"],
        lambda infos: [ServerInfo(0, "127.0.0.1", 1), ServerInfo(1, "127.0.0.1", 2)],
    ],
)
def test_server_info_that_is_not_a_clusters_is_refused(main, config, change):
    with pytest.raises(errors.InvalidArgumentError):
        PSWorkerClient(change(main.get_server_info()), config)


def test_a_wrong_secret_is_an_authentication_error(main, config):
    infos = copy.deepcopy(main.get_server_info())
    for info in infos:
        info.metadata["secret"] = type(info.metadata["secret"])("00" * 32)
    with pytest.raises(errors.AuthenticationError) as raised:
        PSWorkerClient(infos, config)
    assert "00" * 32 not in str(raised.value)


def test_threads_share_a_client(worker, ids):
    before = worker.pull_embeddings(ids)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                worker.push_gradients(None, (ids, np.ones((5, DIM))))
                worker.pull_embeddings(ids)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert worker.pull_embeddings(ids) == pytest.approx(before - 80, abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork of a process with threads
def test_a_client_works_on_in_both_processes_after_a_fork(worker, ids):
    before = worker.pull_embeddings(ids)
    child = os.fork()
    if child == 0:
        try:
            worker.push_gradients(None, (ids, np.ones((5, DIM))))
            worker.pull_embeddings(ids)
            worker.close()
            os._exit(0)
        finally:
            os._exit(1)
    for _ in range(10):
        worker.push_gradients(None, (ids, np.ones((5, DIM))))
    assert os.waitpid(child, 0)[1] == 0
    assert worker.pull_embeddings(ids) == pytest.approx(before - 11, abs=1e-4)
    assert worker.get_stats()["retries"] == 0


@pytest.fixture
def ctrl_c():
    """SIGINT is a KeyboardInterrupt, also where the tests' runner keeps it from its workers."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_server_that_is_stopped_times_out_and_ctrl_c_gets_through(config):
    short = config.replace(num_servers=1, timeout_seconds=1.0)
    with PSMainClient(None, short) as main:
        infos = main.get_server_info()
        with PSWorkerClient(infos, short) as hasty, PSWorkerClient(infos, config) as patient:
            hasty.pull_embeddings([1])
            patient.pull_embeddings([1])
            pid = server_pid(infos[0].port)
            stop(pid)
            try:
                with pytest.raises(errors.PSTimeoutError, match="server 0"):
                    hasty.pull_embeddings([1])
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                started = time.monotonic()
                with pytest.raises(KeyboardInterrupt):
                    patient.pull_embeddings([1])
                assert time.monotonic() - started < 3
            finally:
                os.kill(pid, signal.SIGCONT)
            assert patient.pull_embeddings([1]).shape == (1, DIM)


def test_a_server_that_died_is_a_connection_error_soon_and_by_name(config):
    with PSMainClient(None, config.replace(num_servers=2)) as main:
        infos = main.get_server_info()
        with PSWorkerClient(infos, config) as worker:
            worker.pull_embeddings(list(range(50)))
            os.kill(server_pid(infos[1].port), signal.SIGKILL)
            started = time.monotonic()
            with pytest.raises(errors.PSConnectionError, match="server 1"):
                worker.pull_embeddings(list(range(50)))
            assert time.monotonic() - started < 10


def stop(pid: int) -> None:
    """Stops a process and waits until each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    for _ in range(1000):
        stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
        if all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} does not stop")


def server_pid(port: int) -> int:
    """The process that listens on a TCP port of this machine."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            links = {os.readlink(fd) for fd in (process / "fd").iterdir()}
        except OSError:
            continue
        if links & inodes:
            return int(process.name)
    raise AssertionError(f"nobody listens on port {port}")
