"""The layouts in which known data sets come: one reader each, all giving pictures and a list of problems."""
