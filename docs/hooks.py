"""What the site does to its pages: formulas become MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
FIGURE = "robust-mail.png"  # lies beside the leaderboards, and is made there


def on_files(files: Files, config: Any) -> Files:
    """Add the figure that lies elsewhere in the repository."""
    source = Path(config["config_file_path"]).parent / "leaderboards" / FIGURE
    files.append(File.generated(config, FIGURE, abs_src_path=str(source)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Write each formula as MathML."""
    return FORMULA.sub(
        lambda m: convert(html.unescape(m[3]), display="block" if m[2] == "[" else "inline"), content
    )
