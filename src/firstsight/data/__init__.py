"""From the files of a source to training batches: records, indexes, rows and batches."""
