"""Kinds of captions and instructions that a model writes, one per file (see caption/kind.py)."""
