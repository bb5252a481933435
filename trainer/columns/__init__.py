"""Sample blocks in columns: whole messages read at once, from their bytes to the arrays of a batch."""
