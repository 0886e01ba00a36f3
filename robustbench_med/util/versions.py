"""The versions a number depends on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("robustbench-med", "torch", "numpy")


def versions(further: Iterable[str] = ()) -> dict[str, str]:
    """Python's and each package's version ("" when not installed).

    Args:
        further: distributions that took part besides those that always do.
    """
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
