"""From a public address to batches of token ids."""
