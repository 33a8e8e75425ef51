"""Writes the table of docs/checkpoints.md: folders of Hugging Face's libraries.

  python -m tools.folders_table

Each column is a version of transformers, compared by benchmarks/folders.py,
whose results lie in docs/folders; both models are in a cell, PaliGemma 1 first,
if they differ.
"""

import json
import pathlib
import sys
from typing import Any

_RESULTS = pathlib.Path(__file__).parents[1] / 'docs/folders'
_SOFT_CAP = 'same (logits without the soft-cap)'


def cell(row: dict[str, str]) -> str:
  """Returns the results of a folder, one for both models if it is one."""
  # Where a version leaves the soft-cap out is said once, in the text.
  words = [
    'same' if t == _SOFT_CAP else t.partition(':')[0] for t in row.values()
  ]
  return ', '.join(dict.fromkeys(words))


def table(records: list[dict[str, Any]]) -> str:
  """Returns the table as Markdown.

  Args:
    records: What benchmarks/folders.py wrote, a version each.
  """
  versions = [r['versions'] for r in records]
  lines = [
    '| folder | '
    + ' | '.join(f'transformers {v["transformers"]}' for v in versions)
    + ' |',
    '|---' * (len(records) + 1) + '|',
  ]
  for case in records[0]['results']:
    cells = [cell(r['results'][case]) for r in records]
    lines.append(f'| {case} | {" | ".join(cells)} |')
  texts = [
    [t for row in r['results'].values() for t in row.values()] for r in records
  ]
  counts = [
    f'{sum(t.startswith("same") for t in column)} of {len(column)}'
    for column in texts
  ]
  lines.append(f'| same, of both models | {" | ".join(counts)} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Prints the table."""
  paths = sorted(_RESULTS.glob('*.json'))
  sys.stdout.write(table([json.loads(path.read_text()) for path in paths]))


if __name__ == '__main__':
  main()
