"""Short programs that show the parameter server without the trainer."""
