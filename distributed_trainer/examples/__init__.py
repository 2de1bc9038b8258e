"""Examples that run: `python -m distributed_trainer.examples.flights`."""
