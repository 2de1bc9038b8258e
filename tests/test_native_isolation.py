"""The native module uses its own OpenSSL, lz4 and zstd, whatever else is in the process.

TensorFlow brings BoringSSL and zstd, pyarrow brings OpenSSL, lz4 and zstd, all under the same
symbol names. A call that ended in theirs under our headers would corrupt memory.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = "pyspark_ps._core"
SYMBOLS = {"SSL_CTX_new", "HMAC", "ZSTD_compress", "LZ4_compress_default"}
# What every Linux has, and the C++ run-time library.
SYSTEM_LIBRARIES = {
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
}


# Both ends of a connection by TLS, in the process that holds everything.
BY_TLS = """
from pyspark_ps import PSConfig, PSWorkerClient
from pyspark_ps.server import PSServer
config = PSConfig(server_port_base=0, embedding_dim=4, tls="on", transport="tcp")
with PSServer(0, 1, config) as server:
    info = server.get_server_info()
    assert len(info.metadata["tls_fingerprint"]) == 64
    with PSWorkerClient([info], config) as worker:
        assert worker.pull_embeddings(range(10_000)).shape == (10_000, 4)
"""


def native_module() -> Path:
    from pyspark_ps import _core

    return Path(_core.__file__)


@pytest.mark.parametrize(
    "order", list(itertools.permutations([NATIVE, "tensorflow", "pyarrow"])), ids="-".join
)
def test_symbols_resolve_to_the_module_itself_in_every_import_order(order: tuple[str, ...]) -> None:
    # Half of the import's time goes to the collector and to what Keras looks for and brings none of
    # these libraries.
    program = f"""
import gc, importlib, json, sys
gc.disable()
sys.modules.update(dict.fromkeys(["matplotlib", "pandas", "scipy"]))
for name in {order!r}:
    importlib.import_module(name)
core = importlib.import_module({NATIVE!r})
{BY_TLS}
print(json.dumps([core.__file__, core.symbol_origins()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    module, origins = json.loads(done.stdout.splitlines()[-1])
    assert origins.keys() >= SYMBOLS
    assert {name: Path(path).resolve() for name, path in origins.items()} == dict.fromkeys(
        origins, Path(module).resolve()
    )


def test_module_exports_its_initialiser_and_nothing_else() -> None:
    nm = shutil.which("nm")
    assert nm, "binutils is part of build-essential"
    listed = subprocess.check_output([nm, "-D", "--defined-only", native_module()], text=True)
    assert [line.split()[-1] for line in listed.splitlines()] == ["PyInit__core"]


def test_module_needs_no_shared_library_but_the_system_s() -> None:
    readelf = shutil.which("readelf")
    assert readelf, "binutils is part of build-essential"
    listed = subprocess.check_output([readelf, "-d", native_module()], text=True)
    needed = {line.split("[")[1].rstrip("]") for line in listed.splitlines() if "(NEEDED)" in line}
    unexpected = {name for name in needed - SYSTEM_LIBRARIES if not name.startswith("ld-linux")}
    assert unexpected == set()
