"""Tables in Markdown, for pages and terminals."""

from collections.abc import Iterable, Sequence


def render(
  head: Sequence[str], rows: Iterable[Sequence[str]], flush_right: bool = False
) -> str:
  """Returns a table.

  Args:
    head: Titles of the columns.
    rows: Cells, as many in each row.
    flush_right: Whether all columns but the first are flush right.
  """
  rule = ['---', *['---:' if flush_right else '---'] * (len(head) - 1)]
  return '\n'.join(f'| {" | ".join(row)} |' for row in (head, rule, *rows))
