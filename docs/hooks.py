"""What the site does to its pages: formulas become MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
FIGURES = ("robust-mail.png", "zoo.png")  # lie beside the leaderboards, and are made there


def on_files(files: Files, config: Any) -> Files:
    """Add the figures that lie elsewhere in the repository."""
    folder = Path(config["config_file_path"]).parent / "leaderboards"
    for figure in FIGURES:
        files.append(File.generated(config, figure, abs_src_path=str(folder / figure)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Write each formula as MathML."""
    return FORMULA.sub(
        lambda m: convert(html.unescape(m[3]), display="block" if m[2] == "[" else "inline"), content
    )
