"""Sources of data: one file for each format that a dataset is read from."""
