"""Verdicts of an audit, in words."""

from __future__ import annotations

SOUND = "sound"


UNAUDITED = "unaudited"
