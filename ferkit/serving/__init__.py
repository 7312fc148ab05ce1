"""The server: an API and a page around the inference layer; ``fer serve`` starts it."""
