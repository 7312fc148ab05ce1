"""Face crops to vectors, and vectors to files."""
