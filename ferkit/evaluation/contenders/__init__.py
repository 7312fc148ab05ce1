"""Who takes part in a comparison: each kind of contender in a module of its own."""
