"""Where server processes run: beside the driver (`local`) or on Spark's executors (`executors`)."""
