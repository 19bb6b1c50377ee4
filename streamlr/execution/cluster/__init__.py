"""Dask's workers as an engine: processes of a run's own, or those of a scheduler."""
