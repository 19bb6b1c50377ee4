"""Training: one model, or the models of a path, from opening the data to the results."""
