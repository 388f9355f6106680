"""Training SKEL-CF on shards."""
