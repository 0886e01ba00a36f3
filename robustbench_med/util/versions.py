"""The versions a number depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("robustbench-med", "torch", "numpy", "torchattacks", "adversarial-robustness-toolbox")


def versions() -> dict[str, str]:
    """Python's and each package's version ("" when not installed)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
