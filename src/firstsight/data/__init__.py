"""Reading: records, indexes, rows and batches."""
