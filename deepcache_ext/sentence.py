"""What a sentence for the user may quote: something short, in one line."""

from __future__ import annotations

LONGEST = 40
"""The most characters that are quoted of a value or a name."""


def brief(text: str, longest: int = LONGEST) -> str:
    """Return `text` in one line of at most `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def shown(value: object) -> str:
    """Return a value as Python writes it, if it is short, or the beginning of it."""
    return brief(repr(value))


def of_error(error: BaseException, longest: int = 120) -> str:
    """Return an error's kind and message in one line of at most `longest` characters; the log has all of it."""
    return brief(f"{type(error).__name__}: {error}", longest)


def counted(number: int, thing: str) -> str:
    """Return such as "1 step" or "2 steps"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
