"""Shared by the trainer's tests: small data, and keys where the native module is not built."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
