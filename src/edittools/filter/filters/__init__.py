"""One measurement per file: the file name is the name of the filter. See edittools.filter.Filter."""
