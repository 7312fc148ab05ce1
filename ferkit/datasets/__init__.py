"""Reading labelled pictures: folders, tables, arrays."""
