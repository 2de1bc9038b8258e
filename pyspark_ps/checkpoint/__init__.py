"""`python -m pyspark_ps.checkpoint`: looks into checkpoints. No servers and no Spark needed."""
