"""The errors of the parameter server; each class stands for one kind of failure.

Every message says what was wrong, where (server, table, file), the value, and what to do.
"""

from __future__ import annotations


class PSError(Exception):
    """Base of all errors raised by this package."""


class ConfigurationError(PSError, ValueError):
    """A configuration value is wrong, or asks for something that is not supported."""


class InvalidArgumentError(PSError, ValueError):
    """A call is wrong whatever the state of the cluster: shapes, dtypes, values, conflicts."""


class NotFoundError(PSError, LookupError):
    """A table, dense weight, barrier or checkpoint that does not exist."""


class PSConnectionError(PSError, ConnectionError):
    """A server cannot be reached, went away, or came back without its rows."""


class AuthenticationError(PSConnectionError):
    """The other side does not know the job's secret."""


class PSTimeoutError(PSError, TimeoutError):
    """The deadline of a call passed."""


class ResourceExhaustedError(PSError):
    """A limit that protects the servers was reached; nothing of the refused part was done."""


class DataCorruptionError(PSError):
    """Bytes that cannot be what was written."""


class StorageError(PSError, OSError):
    """A place that cannot be read or written."""


class ClosedError(PSError, RuntimeError):
    """The object was not started, or has been closed."""


__all__ = [
    "AuthenticationError",
    "ClosedError",
    "ConfigurationError",
    "DataCorruptionError",
    "InvalidArgumentError",
    "NotFoundError",
    "PSConnectionError",
    "PSError",
    "PSTimeoutError",
    "ResourceExhaustedError",
    "StorageError",
]
