"""Libraries that extras bring: imported when an attack of theirs is asked for, never before."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from robustbench_med.api import UserError

# What torch says when torchvision was built for another torch, such as CUDA's beside the CPU's.
OF_ANOTHER_TORCH = "operator torchvision::"


def library(module: str, extra: str) -> ModuleType:
    """A module of an attack library.

    Args:
        extra: the extra of this package that installs the library, which is also the attack's name.

    Raises:
        UserError: it is not installed, or it does not go with what is installed beside it.
    """
    install = f"pip install 'robustbench-med[{extra}]'"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        lacks = f"--attack {extra} needs the package {error.name!r}, which is not installed"
        raise UserError(f"{lacks}: {install}") from error
    except ImportError as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"--attack {extra}: the versions of {module} and of what it imports do not go together ({said}); "
            f"in an environment of its own: {install}"
        ) from error
    except RuntimeError as error:
        if OF_ANOTHER_TORCH not in str(error):
            raise
        raise UserError(
            f"--attack {extra}: torchvision was built for another torch ({error}); install both from one "
            "source, CPU builds or CUDA builds, or uninstall torchvision"
        ) from error
