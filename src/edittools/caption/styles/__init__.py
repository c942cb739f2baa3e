"""Styles of instruction captions, one per file: the file name is the registry.

A style is a function `write(name, slots, lang, rng) -> str` that words one edit.
"""
