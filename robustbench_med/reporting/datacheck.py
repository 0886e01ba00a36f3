"""What was found in a data set, for people."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from robustbench_med.data.check import EXAMPLES, DataCheck
from robustbench_med.reporting.figures import label, pyplot, saved
from robustbench_med.reporting.text import NumberRow, headed, notes_table, number_table, plain

MOST = 16  # classes in a table or picture
SIZES = 3  # of a modality


def show(found: DataCheck, console: Console) -> None:
    """Print counts, what the modalities hold, what was found, and what it means."""
    headed(console, found.name)
    for head, counts in found.counts.items():
        rows = [
            NumberRow(answer, [str(by_split[split]) for split in found.splits])
            for answer, by_split in list(counts.items())[:MOST]
        ]
        if len(counts) > MOST:
            rows.append(NumberRow(f"and {len(counts) - MOST} more", ["" for _ in found.splits]))
        rows.append(NumberRow("all", [str(count) for count in found.splits.values()]))
        number_table(console, [f"samples by {head}", *found.splits], rows)
    notes = notes_table()
    for values in found.values:
        sizes = ", ".join(f"{size} ({count})" for size, count in list(values.sizes.items())[:SIZES])
        more = f" and {len(values.sizes) - SIZES} more sizes" if len(values.sizes) > SIZES else ""
        types = ", ".join(f"{name} ({count})" for name, count in values.types.items())
        said = f"{sizes}{more}; {types}; {values.low:.3g} to {values.high:.3g} of the full scale"
        notes.add_row(plain(values.modality), plain(said))
    for line in found.said:
        notes.add_row("caveat", plain(line))
    for finding in found.findings:
        notes.add_row("GRAVE" if finding.grave else "note", plain(finding.said))
    notes.add_row("verdict", verdict(found))
    console.print(notes)


def verdict(found: DataCheck) -> str:
    """What the findings mean for a number, in a sentence."""
    if found.meaningless:
        return "A number made on this data would mean nothing, or cannot be made: mend what is grave first."
    if found.findings:
        return "A number made on this data means something; mind the notes."
    return "Nothing was found that speaks against a number made on this data."


def draw(found: DataCheck, path: Path) -> None:
    """Write a PNG: a row a class, some samples of each modality."""
    plt = pyplot()
    modalities = list(dict.fromkeys(modality for _, modality in found.examples))
    classes = list(dict.fromkeys(said for said, _ in found.examples))[:MOST]
    columns = EXAMPLES * len(modalities)
    figure, axes = plt.subplots(
        len(classes), columns, figsize=(1.3 * columns + 1.2, 1.4 * len(classes) + 0.6), squeeze=False
    )
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    for row, said in enumerate(classes):
        axes[row, 0].set_ylabel(label(said), fontsize=7, rotation=0, ha="right", va="center")
        for number, modality in enumerate(modalities):
            for place, thumb in enumerate(found.examples[said, modality]):
                axis = axes[row, EXAMPLES * number + place]
                axis.imshow(thumb, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if row == 0:
                axes[0, EXAMPLES * number].set_title(label(modality), fontsize=8)
    figure.suptitle(label(found.name), fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    saved(figure, path)
