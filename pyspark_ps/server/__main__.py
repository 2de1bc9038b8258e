"""`python -m pyspark_ps.server`: one server of a cluster. See `pyspark_ps.server.host`."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

from pyspark_ps.server.host import main


class WithoutPandas(MetaPathFinder):
    """pyarrow imports pandas as soon as it is there, to know its types: 40 MB, and half a second of
    a processor at the first save. No server meets them."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("a server does without pandas", name=fullname)


sys.meta_path.insert(0, WithoutPandas())
sys.exit(main())
