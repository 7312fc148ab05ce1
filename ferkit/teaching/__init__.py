"""Own classes from a few examples: collect, fit at once, and say honestly how well it works."""
