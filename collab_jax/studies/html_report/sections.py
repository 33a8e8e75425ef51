"""Sections of a report: facts, findings, figures, scores, settings."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from matplotlib import figure as figures_lib

from collab_jax import plots
from collab_jax.evaluation import identity
from collab_jax.evaluation.report import labels
from collab_jax.evaluation.report import text as text_lib
from collab_jax.plots import style
from collab_jax.studies.html_report import markup, run_folder

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_LARGEST = 600_000  # Bytes of a drawing that is embedded.
# Figures in the order of a report, and what each shows.
FIGURES = {
  'fig2': 'Features of one picture, before and after k-means.',
  'fig2_photos': 'Features of photographs, before and after k-means.',
  'fig3': 'Score against the share of the vectors that is sent.',
  'fig3_bytes': 'Score against the bytes that are sent.',
  'rate': 'Score against bytes, beside image codecs.',
  'channel': 'Score against loss or noise of the channel.',
  'selectors': 'Share of the full score that each selector keeps.',
  'tasks': "Share of each task's score that is kept, over vectors and bytes.",
  'tasks_control': 'The same, of questions that a small picture gets wrong.',
  'tasks_rate': 'Share of the score that each kind of codec keeps, over bytes.',
  'finetune_rate': 'Score against bytes, before and after training.',
  'rate_cider': 'CIDEr against bytes, beside image codecs.',
  'rate_fields': 'Bytes of messages by field.',
  'rate_latency': 'Time from picture to caption over links.',
}


def facts(items: Mapping[str, str | None]) -> markup.Element:
  """Makes a list of facts; those without a value are left out."""
  pairs = [
    markup.tag('div', markup.tag('dt', name), markup.tag('dd', value))
    for name, value in items.items()
    if value
  ]
  return markup.tag('dl', pairs, class_='facts')


def headline(
  part: run_folder.Part, run: run_folder.RunFolder
) -> dict[str, str | None]:
  """Returns what was run, on what, and how long it took, by name.

  Args:
    part: Records of a model, and the settings beside them.
    run: Config and summary of the run.
  """
  records = part.records
  flat = identity.flat(part.settings)
  made_with = run.summary.get('made_with') or {}
  images = len({record['image_id'] for record in records})
  seeds = len({record['seed'] for record in records})
  dtype = flat.get('model.compute_dtype') or flat.get('model.dtype')
  model = records[0].get('model') or flat.get('model.name') or 'unnamed'
  decoding = records[0].get('decoding') or flat.get('captioner.decoding')
  jax_version = (made_with.get('versions') or {}).get('jax')
  device = made_with.get('device') or flat.get('platform')
  cores = made_with.get('cores')
  return {
    'model': f'{model}, {dtype}' if dtype else str(model),
    'pictures': f'{images:,} of {records[0].get("data") or "unnamed data"}',
    'codecs': f'{len({record["name"] for record in records}):,}',
    'seed' if seeds == 1 else 'seeds': f'{seeds}',
    run_folder.noun(records): f'{len(records):,}',
    'task': part.task or records[0].get('task'),
    'prompt': flat.get('captioner.prompt') or run.config.get('prompt'),
    'decoding': str(decoding) if decoding else None,
    'device': f'{device}, {cores} cores' if cores else device,
    'mesh': _mesh(run.summary.get('mesh')),
    'JAX': jax_version or flat.get('versions.jax'),
    'commit': made_with.get('commit'),
    **_seconds(records, run.summary),
  }


def _mesh(sizes: Any) -> str | None:
  if not isinstance(sizes, Mapping):
    return None
  return ' x '.join(f'{name} {size}' for name, size in sizes.items())


def _seconds(
  records: Sequence[Record], summary: Mapping[str, Any]
) -> dict[str, str]:
  """Returns the run's seconds if they are known, else those of its stages."""
  seconds = summary.get('seconds')
  if isinstance(seconds, int | float):
    return {'seconds': f'{seconds:,.0f}'}
  spent = sum(
    value or 0.0 for record in records for value in record['seconds'].values()
  )
  return {'seconds of all stages, added': f'{spent:,.0f}'}


def figures(items: Iterable[tuple[str, str, str]]) -> list[markup.Element]:
  """Makes figures of names, URLs and descriptions."""
  return [
    markup.tag(
      'figure',
      markup.scroller(
        description,
        markup.image(
          url,
          description,
          class_='lines-only' if _has_lines_only(url) else 'with-pictures',
        ),
      ),
      markup.tag('figcaption', description),
      class_='drawing',
      id=f'figure-{name}',
    )
    for name, url, description in items
  ]


def _has_lines_only(url: str) -> bool:
  """Whether a figure is a vector drawing in which no picture is."""
  kind, _, data = url.partition(';base64,')
  return kind.endswith('svg+xml') and b'<image' not in base64.b64decode(data)


def saved_figures(folder: Path) -> list[tuple[str, str, str]]:
  """Returns the figures in a folder: name, URL and description.

  A vector drawing is taken if it is not large, else the PNG beside it.
  """
  names = {
    p.stem for ending in ('svg', 'png') for p in folder.glob(f'*.{ending}')
  }
  order = [name for name in FIGURES if name in names]
  order += sorted(names - {*FIGURES})
  return [
    (name, url, FIGURES.get(name, name.replace('_', ' ')))
    for name in order
    if (url := _file_url(folder / name))
  ]


def draw_figures(
  models: Sequence[tuple[str, Sequence[Row]]],
) -> list[tuple[str, str, str]]:
  """Draws the figure that rows of a kind have, of each model.

  Args:
    models: Label and rows of each.

  Returns:
    Name, URL and description of each figure.
  """
  drawn = []
  for n, (label, rows) in enumerate(models):
    for name, figure in _figures_of(rows).items():
      _, url, description = drawn_figure(name, figure)
      if label:
        description = f'{label}: {description}'
      drawn.append((f'{name}-{n}' if n else name, url, description))
  return drawn


def drawn_figure(name: str, figure: figures_lib.Figure) -> tuple[str, str, str]:
  """Returns name, URL and description of a figure that is at hand."""
  url = markup.data_url(style.to_svg(figure), 'image/svg+xml')
  return name, url, FIGURES[name]


def _figures_of(rows: Sequence[Row]) -> dict[str, figures_lib.Figure]:
  if any('channel' in row['codec'] for row in rows):
    return {'channel': plots.channel(rows)}
  if any(map(labels.is_picture, rows)):
    return {'rate': plots.rate(rows)}
  if labels.curves(rows):
    return {
      'fig3': plots.tradeoff(rows),
      'fig3_bytes': plots.tradeoff(rows, x='bytes'),
    }
  return {}


def _file_url(stem: Path) -> str | None:
  for ending, kind in (('.svg', 'image/svg+xml'), ('.png', 'image/png')):
    path = stem.with_name(stem.name + ending)
    if path.exists() and path.stat().st_size <= _LARGEST:
      return markup.data_url(path.read_bytes(), kind)
  return None


def scores(label: str, rows: Sequence[Row]) -> markup.Element:
  """Makes the table of all codecs.

  Args:
    label: Name of the table.
    rows: From `evaluation.summarize`.
  """
  head, *lines = text_lib.table_cells(rows)
  return markup.table(label, head, lines)


def settings_table(label: str, values: Mapping[str, Any]) -> markup.Element:
  """Makes a table of nested settings, a line each."""
  flat = identity.flat(values)
  lines = [
    (name, value if isinstance(value, str) else json.dumps(value))
    for name, value in sorted(flat.items())
  ]
  return markup.table(label, ('setting', 'value'), lines)
