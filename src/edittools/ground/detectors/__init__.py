"""One detector per file: the file name is its name. See edittools.ground."""
