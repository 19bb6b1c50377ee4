"""What a run will do and need, told before anything is read."""
