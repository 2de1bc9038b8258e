from __future__ import annotations

import copy
import json
import pickle

import pytest

from pyspark_ps import errors
from pyspark_ps.communication import CheckpointInfo, Secret, ServerInfo

SECRET = "0123456789abcdef0123456789abcdef"


def make_info() -> ServerInfo:
    return ServerInfo(
        3, "10.0.0.7", 50003, "running", (0, 1023), {"secret": SECRET, "coordinator": "10.0.0.1:4"}
    )


def test_server_info_never_prints_its_secret():
    info = make_info()
    shown = [repr(info), str(info), f"{info}", repr(info.to_dict()), str(info.metadata)]
    secret = info.metadata["secret"]
    shown += [str(secret), f"{secret}", f"{secret:>40}", "%s" % secret, repr([secret])]  # noqa: UP031
    assert not any(SECRET in text for text in shown)
    assert all("***" in text for text in shown)


@pytest.mark.parametrize("travel", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_secret_survives_travel_and_stays_hidden(travel):
    info = travel(make_info())
    assert info == make_info()
    assert isinstance(info.metadata["secret"], Secret)
    assert info.metadata["secret"].reveal() == SECRET
    assert type(info.metadata["secret"].reveal()) is str


def test_server_info_round_trips_through_dict_and_json():
    info = make_info()
    again = ServerInfo.from_dict(json.loads(json.dumps(info.to_dict())))
    assert again == info
    assert again.metadata["secret"].reveal() == SECRET
    assert again.shard_range == (0, 1023)


def test_address_puts_ipv6_in_brackets():
    assert make_info().address == "10.0.0.7:50003"
    assert ServerInfo(0, "fe80::1", 5).address == "[fe80::1]:5"


def test_from_dict_refuses_unknown_and_missing_keys():
    with pytest.raises(errors.InvalidArgumentError, match="hots"):
        ServerInfo.from_dict({"server_id": 1, "hots": "x", "port": 1})
    with pytest.raises(errors.InvalidArgumentError, match="port is missing"):
        ServerInfo.from_dict({"server_id": 1, "host": "x"})


def test_checkpoint_info_round_trips():
    info = CheckpointInfo("s3://b/c", "2026-01-02T03:04:05Z", 7, 8, {"a": 1}, {"b": [2]})
    assert CheckpointInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.InvalidArgumentError, ValueError),
        (errors.NotFoundError, LookupError),
        (errors.PSConnectionError, ConnectionError),
        (errors.AuthenticationError, errors.PSConnectionError),
        (errors.PSTimeoutError, TimeoutError),
        (errors.StorageError, OSError),
        (errors.ClosedError, RuntimeError),
    ],
)
def test_errors_are_also_the_standard_ones_and_survive_pickling(error, also):
    raised = error("table 'x' does not exist")
    assert isinstance(raised, errors.PSError)
    assert isinstance(raised, also)
    assert str(pickle.loads(pickle.dumps(raised))) == "table 'x' does not exist"
