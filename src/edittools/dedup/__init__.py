"""Deduplication (SPEC D1, D4): fingerprint every row, cluster the fingerprints, keep one of each cluster.

The three steps are one command, or three on a cluster: fingerprint (per shard), verdict (one), apply (per shard).
"""
