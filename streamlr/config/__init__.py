"""The configuration: its sections, how they are read and checked, and where things are named."""
