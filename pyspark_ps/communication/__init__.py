"""What the processes of a cluster tell each other about themselves. The wire itself is C++."""

from __future__ import annotations

from pyspark_ps.communication.checkpoint_info import CheckpointInfo
from pyspark_ps.communication.message_type import MessageType
from pyspark_ps.communication.server_info import Secret, ServerInfo

__all__ = ["CheckpointInfo", "MessageType", "Secret", "ServerInfo"]
