"""Data sets: importers, the compact local copy, and splits that anyone can recompute."""
