"""The same bytes."""

from edittools.dedup.signature import Signature

SIGNATURE = Signature("the same bytes")
