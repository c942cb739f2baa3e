"""One check of painted edits per file: the file name is its name. See edittools.synth.checking."""
