"""How chunks are read: files and shards, decoding, retries and what has changed meanwhile."""
