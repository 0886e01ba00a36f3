"""Architectures, and how named models are built and their weights loaded."""
