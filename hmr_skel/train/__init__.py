"""Train SKEL-CF on shards."""
