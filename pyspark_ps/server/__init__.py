"""The server process. `python -m pyspark_ps.server` is started by whoever places servers."""
