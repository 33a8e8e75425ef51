r"""Fills the tables of codecs in pages of docs from the records of runs.

python tools/codec_tables.py docs/quantizers.md docs/selectors.md

Such a table follows a comment that names its run, such as
<!-- records: runs/rate -->, and the titles of its columns say what they hold.
The first one holds codecs; a title 'with `SETTING`' says what all of them have
besides.
"""

import argparse
from collections.abc import Mapping
import pathlib
import re
from typing import Any

import markdown_table

import collab_jax as cj
from collab_jax import evaluation

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TABLE = re.compile(
  r'(?P<before><!-- records: (?P<run>\S+) -->\n\n)'
  r'\| (?P<head>.*) \|\n\|[-:| ]+\|\n(?P<rows>(?:\| .* \|\n)+)'
)


def _bytes(count: float) -> str:
  return f'{count:.1f}' if count < 1000 else f'{count:,.0f}'


def _vectors(row: Mapping[str, Any]) -> str:
  rest = set(row['fields']) - {'header', 'assignments'}
  return _bytes(sum(row['fields'][name] for name in rest))


def _assignments(row: Mapping[str, Any]) -> str:
  sent = row['fields'].get('assignments')
  return '' if sent is None else _bytes(sent)


# Title of a column -> its cell, of the row of a codec and that of all vectors.
_CELLS = {
  'bytes': lambda row, full: _bytes(row['bytes']),
  'largest': lambda row, full: f'{row["largest"]:,}',
  'assignments': lambda row, full: _assignments(row),
  'vectors': lambda row, full: _vectors(row),
  'BLEU-4': lambda row, full: f'{row["bleu4"]:.1f}',
  'CIDEr': lambda row, full: f'{row["cider"]:.2f}',
  'kept': lambda row, full: f'{100 * row["bleu4"] / full["bleu4"]:.1f}%',
}


def read(run: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns the row of each codec of a run, with its `largest` message."""
  records = list(evaluation.read_records(run / 'records.jsonl'))
  rows = {
    row['name']: dict(row, largest=0) for row in evaluation.summarize(records)
  }
  for record in records:
    row = rows[record['name']]
    row['largest'] = max(row['largest'], record['total_bytes'])
  return rows


def fill(page: str) -> str:
  """Returns a page with its tables made anew.

  Args:
    page: Text in Markdown.

  Raises:
    KeyError: A run lacks a codec of its table, or a column is unknown.
    FileNotFoundError: A run is missing.
  """
  model = cj.load('tiny')

  def again(match: re.Match[str]) -> str:
    first, *titles = match['head'].split(' | ')
    rows = read(ROOT / match['run'])
    full = rows['identity/best']
    setting = re.search('with `(.*)`', first)
    cells = []
    for line in match['rows'].splitlines():
      codec = line.split(' | ')[0].removeprefix('| ')
      text = codec.strip('`')
      if setting:
        text = f'{text.removesuffix(")")},{setting[1]})'
      row = full
      if codec.startswith('`'):
        row = rows[cj.FeatureCodec(model, text, coding='best').name]
      cells.append([codec, *(_CELLS[title](row, full) for title in titles)])
    table = markdown_table.render([first, *titles], cells)
    return f'{match["before"]}{table}\n'

  return _TABLE.sub(again, page)


def main():
  """Fills the tables of the pages that were named."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('pages', nargs='+', type=pathlib.Path)
  for page in parser.parse_args().pages:
    page.write_text(fill(page.read_text()))


if __name__ == '__main__':
  main()
