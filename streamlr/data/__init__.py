"""Where the examples come from: the store contract, the fixed partition into blocks and slabs,
reading and writing."""
