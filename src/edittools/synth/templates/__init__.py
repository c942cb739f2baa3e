"""The edit templates, one per file: the file name is the registry (see edittools.synth.core.Template)."""
