"""Published data sets, one per file: the file name is the registry, and what `edit shard --from` takes.

A file declares `DATASET`, a Dataset (`ingest/dataset.py`). Its docstring says where the layout was looked up.
"""
