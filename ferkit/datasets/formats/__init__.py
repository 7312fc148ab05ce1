"""Read the layouts and annotations that other people's data sets come in."""
