"""Reading labelled images: folders, tables, arrays."""
