"""One painter per file: the file name is its name. See edittools.painters."""
