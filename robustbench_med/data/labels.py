"""Somebody's labels as a head and its answers; what has more than one meaning is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.checks import whole_numbers
from robustbench_med.api.heads import UNKNOWN, Head, MultiLabel, SingleLabel
from robustbench_med.util.errors import UserError, unknown

Classes = Sequence[str] | int
"""Names in label order, or how many there are."""

NOT_KNOWN: Final = frozenset(("", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "?"))
"""How a table leaves a label open. "none" and "unknown" may be classes, and are taken as such."""
ENOUGH: Final = 20
"""Rows that all have exactly one 1, from which on they are classes: findings do not come out so by chance."""
FEW_CLASSES: Final = 100

Labels = NDArray[np.int64]


def one_for_each(given: Any, name: str, names: Mapping[str, Any], what: str) -> Any:
    """What an option says of ``name``: an option is one value for all, or a mapping by name.

    Raises:
        UserError: it names what is not there.
    """
    if not isinstance(given, Mapping):
        return given
    for each in given:
        if each not in names:
            raise unknown(f"name in {what}", str(each), names)
    return given.get(name)


def head_of_labels(
    name: str,
    values: NDArray[Any],
    modalities: tuple[str, ...],
    said: list[str],
    classes: Classes | None = None,
    head: Head | None = None,
) -> tuple[Head, Labels]:
    """The head that labels answer, and the labels as it wants them.

    =====================================  =====================================================
    in the array                           becomes
    =====================================  =====================================================
    whole numbers (N,) or (N, 1)           one of K classes, K the largest and one more
    truth values                           no and yes
    text                                   one of the sorted texts
    0 and 1 (N, L)                         L findings
    exactly one 1 in every row, L > 2      one of L classes
    -1, NaN, an empty text                 unknown
    =====================================  =====================================================

    Args:
        said: gets a line for everything that was guessed.
        classes: the names of classes or findings, or how many there are.
        head: in place of any guess.

    Raises:
        UserError: anything that has more than one meaning, or none; the line says what to write.
    """
    names = _class_names(name, classes)
    if values.ndim == 2 and values.shape[1] == 1 and not isinstance(head, MultiLabel):
        values = values[:, 0]
    if head is not None:
        rows = values.ndim == 2 and head.label_shape == () and values.shape[1] == len(head.answers)
        if rows and set(np.unique(values).tolist()) <= {0, 1} and (values.sum(1) == 1).all():
            values = values.argmax(1)
        return head, _numbers(name, values, head.answers, said)
    if values.ndim == 1:
        return _single(name, values, names, modalities, said)
    if values.ndim != 2:
        raise UserError(
            f"labels of {name} have shape {values.shape}; a label is one class a sample, or a row of "
            "findings (segmentation and boxes are not supported)"
        )
    return _several(name, values, names, modalities, said)


def head_of_rows(
    name: str,
    rows: NDArray[Any],
    names: Sequence[str],
    kind: str | None,
    modalities: tuple[str, ...],
    said: list[str],
) -> tuple[Head, Labels]:
    """``head_of_labels`` of rows whose columns have names.

    Args:
        kind: "classes" or "findings"; None where nobody said.

    Raises:
        UserError: every row has exactly one 1 and nobody said which they are.
    """
    one_each = set(np.unique(rows).tolist()) <= {0, 1} and bool((rows.sum(1) == 1).all())
    if kind == "classes" and not one_each:
        raise UserError(f"{name}: classes need exactly one 1 and else 0 in every row; mend the columns")
    if kind == "classes":
        return head_of_labels(name, rows, modalities, said, tuple(names))
    if kind is None and one_each:
        raise UserError(
            f"every row of the columns of {name} has exactly one 1: write kind: classes if there is one "
            "answer, or kind: findings"
        )
    head = MultiLabel(name, findings=tuple(names), modalities=modalities)
    return head_of_labels(name, rows, modalities, said, None, head)


def _class_names(name: str, classes: Classes | None) -> tuple[str, ...] | None:
    if isinstance(classes, str) or (isinstance(classes, int) and classes < 2):
        raise UserError(f"classes of {name} are {classes!r}; give their names in label order, or how many")
    if classes is None:
        return None
    return tuple(map(str, range(classes) if isinstance(classes, int) else classes))


def _numbers(name: str, values: NDArray[Any], answers: Sequence[str], said: list[str]) -> Labels:
    """Labels as whole numbers, -1 where none is known; texts are looked up among the answers."""
    if values.dtype.kind == "U":
        position = {answer: index for index, answer in enumerate(answers)}
        texts = [str(value).strip() for value in values.ravel()]
        odd = next((t for t in texts if t not in position and t.lower() not in NOT_KNOWN), None)
        if odd is not None:
            raise unknown(f"class of {name}", odd, answers)
        numbers = np.array([position.get(text, UNKNOWN) for text in texts]).reshape(values.shape)
    else:
        open_ones = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        numbers = whole_numbers(np.where(open_ones, UNKNOWN, values), f"labels of {name}")
    missing = int((numbers == UNKNOWN).sum())
    if missing == numbers.size:
        raise UserError(f"every label of {name} is unknown; give some")
    if missing:
        said.append(f"{name}: {missing} of {numbers.size} labels are unknown (-1 or empty) and left out")
    return numbers.astype(np.int64)


def _single(
    name: str,
    values: NDArray[Any],
    names: tuple[str, ...] | None,
    modalities: tuple[str, ...],
    said: list[str],
) -> tuple[Head, Labels]:
    if values.dtype.kind == "U" and names is None:
        texts = {str(value).strip() for value in values}
        names = tuple(sorted(text for text in texts if text.lower() not in NOT_KNOWN))
        said.append(f"{name}: classes in the order of the alphabet: {_few(names)}")
    if values.dtype.kind == "b" and names is None:
        names = ("no", "yes")
    numbers = _numbers(name, values, names or (), said)
    if names is None:
        names = _numbered(name, numbers)
        said.append(f"{name}: {len(names)} classes, from the largest label; classes= names them")
    return SingleLabel(name, classes=_distinct(name, names), modalities=modalities), numbers


def _numbered(name: str, numbers: Labels) -> tuple[str, ...]:
    """Names for classes that have numbers only."""
    found = np.unique(numbers[numbers != UNKNOWN])
    count = int(found[-1]) + 1
    if found[0] != 0:
        raise UserError(
            f"labels of {name} go from {found[0]} to {found[-1]}, none is 0; number the classes from 0 "
            f'(-1 is unknown), or say how many there are: classes={{"{name}": {count}}}'
        )
    if count > max(FEW_CLASSES, 10 * len(found)):
        raise UserError(
            f"labels of {name} are {len(found)} different numbers up to {found[-1]}; number the classes from "
            f'0, or say how many there are: classes={{"{name}": {count}}}'
        )
    return tuple(map(str, range(count)))


def _several(
    name: str,
    values: NDArray[Any],
    names: tuple[str, ...] | None,
    modalities: tuple[str, ...],
    said: list[str],
) -> tuple[Head, Labels]:
    """Rows of findings, or classes written as rows with one 1."""
    if values.dtype.kind == "U":
        raise UserError(f"labels of {name} are rows of text; give 0 and 1 for each finding")
    ones = values.sum(1) == 1 if values.dtype.kind in "iubf" else np.zeros(1, bool)
    only = set(np.unique(values).tolist()) <= {0, 1}
    numbers = _numbers(name, values, (), said)
    if numbers.min() < UNKNOWN or numbers.max() > 1:
        raise UserError(
            f"labels of {name} have shape {numbers.shape} with values {numbers.min()} to {numbers.max()}; "
            "findings are 0, 1 or -1 (unknown), and of classes one number a sample is wanted"
        )
    width = numbers.shape[1]
    if names is not None and len(names) != width:
        raise UserError(f"{len(names)} classes= of {name} for {width} columns of labels")
    if not (only and ones.all()):
        named = names or tuple(map(str, range(width)))
        said.append(f"{name}: {width} findings, each there or not")
        return MultiLabel(name, findings=_distinct(name, named), modalities=modalities), numbers
    if names is None and (width == 2 or len(numbers) < ENOUGH):
        raise UserError(
            f"labels of {name}: every row of {width} has exactly one 1: classes or findings? For classes "
            "give y.argmax(1) or their names in classes=; for findings give heads=[MultiLabel(…)]"
        )
    said.append(f"{name}: exactly one 1 in every row, so taken as one of {width} classes")
    named = names or tuple(map(str, range(width)))
    return SingleLabel(name, classes=_distinct(name, named), modalities=modalities), numbers.argmax(1)


def _distinct(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Class names, if a head can have them."""
    if len(names) < 2 and len(set(names)) == len(names):
        found = f"the class {names[0]!r}" if names else "no class"
        raise UserError(
            f"labels of {name} have only {found}, and nothing can go wrong there; if there are more, write "
            f'classes={{"{name}": [...]}}'
        )
    return names


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
