"""Measures of how well a model predicts, from sums over rows."""
