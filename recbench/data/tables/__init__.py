"""Your own tables: which column holds what, the file as columns of text, the rules of its values."""
