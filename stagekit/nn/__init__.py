"""Neural operations: `sk.nn.functional`."""
