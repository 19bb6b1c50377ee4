"""Pure functions of NumPy arrays: the sums over a block of rows and the fixed tree in which sums
are added."""
