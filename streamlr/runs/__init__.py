"""A run: its session on the data, its directory, its record and its checkpoints."""
