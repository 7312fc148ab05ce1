"""What is wrong with a data set: found, shown on a page, and mended as a person ticked."""
