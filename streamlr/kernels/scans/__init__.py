"""Scans: what one pass over the rows sums, each with the sums that it makes."""
