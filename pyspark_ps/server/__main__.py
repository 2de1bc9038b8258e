"""`python -m pyspark_ps.server`: one server of a cluster. See `pyspark_ps.server.host`."""

from __future__ import annotations

import sys

from pyspark_ps.server.host import main

sys.exit(main())
