"""Completion of ``robmed`` in a shell: a script that has every command, flag and name in it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping

from robustbench_med.flags import parser
from robustbench_med.names import HOMES
from robustbench_med.util.terminal import Parser

# What an argument's value is completed with, besides files.
KINDS: Mapping[str, str] = {
    "model": "model",
    "attack": "attack",
    "dataset": "data set",
    "defenses": "defense",
    "audit": "audit",
}
POSITIONAL: Mapping[str, str] = {
    **dict.fromkeys(("run", "audit", "curve", "modalities"), "protocol"),
    "suite": "suite",
    "train": "recipe",
    "data check": "data set",
    "data import": "data set",
}
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
BASH = """\
_robmed() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local command=${{COMP_WORDS[1]}} words=
  if [ "$COMP_CWORD" -gt 2 ] && [ "$command" = data ]; then command="data ${{COMP_WORDS[2]}}"; fi
  if [ "$COMP_CWORD" -eq 1 ]; then command=; fi
  case "$command:$before" in
{values}
    *) case "$command" in
{commands}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _robmed robmed
"""


def script(shell: str) -> str:
    """The script of a shell; what is installed later is in it once it is made again."""
    values = [
        f"    *:{flag}) words={_quoted(names)} ;;"
        for flag, names in sorted(_values(parser()).items())
        if flag.startswith("--") and names
    ]
    commands = [f"      {shlex.quote(name)}) words={_quoted(words)} ;;" for name, words in _words(parser())]
    text = BASH.format(values="\n".join(values), commands="\n".join(commands))
    return ZSH + text if shell == "zsh" else text


def _words(root: Parser, before: str = "") -> Iterator[tuple[str, list[str]]]:
    """By command ("" for none), what may follow it."""
    positional = HOMES[POSITIONAL[before]][0]() if before in POSITIONAL else ()
    chosen = [choice for a in root.options() if not a.option_strings for choice in a.choices or ()]
    yield before, [*chosen, *positional, *(flag for flag in root.flags() if flag.startswith("--"))]
    for name, each in root.commands().items():
        yield from _words(each, f"{before} {name}".strip())


def _values(root: Parser) -> dict[str, list[str]]:
    """By flag, the values that there are names for."""
    found = {flag: _names(action) for action in root.options() for flag in action.option_strings}
    for each in root.commands().values():
        found |= _values(each)
    return found


def _names(action: argparse.Action) -> list[str]:
    if action.dest in KINDS:
        return list(HOMES[KINDS[action.dest]][0]())
    return [str(choice) for choice in action.choices or ()]


def _quoted(words: list[str]) -> str:
    return shlex.quote(" ".join(words))
