"""Benchmarks: held-out rows and data sets in numbers (`heldout`, `dataset`), and the report on them."""
