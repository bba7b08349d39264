"""From the download of a text to batches of token ids."""
