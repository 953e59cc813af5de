"""Compare synthetic with acquired images."""
