"""One painted task per file: the file name is its name. See edittools.synth.painting."""
