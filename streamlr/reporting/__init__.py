"""What a person reads while a run is under way, and after it."""
