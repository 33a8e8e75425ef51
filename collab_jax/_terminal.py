"""Text of others, made fit for a terminal, a log or a page."""

_MOST = 4096  # Letters of an error's text.
# Joiners of scripts and emoji, which are no printable letters by themselves.
_JOINERS = '\u200c\u200d'


def escape(text: str, most: int | None = None) -> str:
  r"""Returns a text on one line, in letters that only show.

  A server's words may hold sequences that move a terminal's cursor, lines that
  pass for another program's, or marks that turn the direction of writing. Such
  letters are written as Python writes them: '\x1b', '\n', '\u202e'.

  Args:
    text: Any text.
    most: Most letters of the text that are shown; None for all.
  """
  rest = 0 if most is None else max(len(text) - most, 0)
  shown = ''.join(
    letter
    if letter.isprintable() or letter in _JOINERS
    else letter.encode('unicode_escape').decode()
    for letter in text[: len(text) - rest]
  )
  return f'{shown}... ({rest:,} more letters)' if rest else shown


def escape_error(text: str) -> str:
  """Returns the text of an error as `escape` does, of bounded length."""
  return escape(text, _MOST)
