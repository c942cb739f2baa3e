"""Designs of human studies, one per file: the file name is the registry. See bench.studies.design."""
