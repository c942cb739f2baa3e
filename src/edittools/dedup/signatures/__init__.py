"""Signatures by which images are copies, one per file: the file name is the registry. See dedup.signature."""
