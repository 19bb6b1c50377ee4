"""What rows are read from: stores, arrays and frames, and views of them."""
