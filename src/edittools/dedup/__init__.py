"""Deduplication (FireRed 2.2.1): fingerprint every row, cluster the fingerprints, keep one of each cluster.

The three steps are one command, or three on a cluster: fingerprint (per shard), decide (one), apply (per shard).
"""
