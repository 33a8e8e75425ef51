"""Page of a report: its contents, written to a file."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, NamedTuple

from collab_jax import _validate, evaluation, jsonl, metrics
from collab_jax.evaluation.report import unlike
from collab_jax.studies import build
from collab_jax.studies.html_report import (
  choice,
  gallery,
  markup,
  run_folder,
  sections,
  sources,
)

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

NAME = 'report.html'
PICTURES = 12


class ModelReport(NamedTuple):
  """Model of a run.

  Attributes:
    part: Its label, records and settings.
    rows: Summary of the records that have references; empty if none has.
    source: Where pictures and maps come from.
  """

  part: run_folder.Part
  rows: Rows
  source: gallery.Source


def write_html(
  run: str | os.PathLike[str],
  out: str | os.PathLike[str] | None = None,
  pictures: int = PICTURES,
  clusters: bool = True,
) -> Path:
  """Writes a report of a run as one HTML file, which needs no other.

    cj.studies.write_html('runs/demo')

  It has settings, findings, figures, the table of all codecs, and a gallery:
  some pictures, the vectors that arrive of them, and their captions, in which
  the words that the references do not have are marked. Pictures are read again
  from the run's data; where they are gone the gallery says so.

  Args:
    run: Folder of a run of any kind, or a file of records; finished or not.
    out: File to write; by default report.html in the run's folder.
    pictures: Number of pictures in the gallery; 0 leaves it out.
    clusters: Load the model's edge half, to draw what arrives.

  Returns:
    The file.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: There are no records, a file is damaged, or a number is out of
      range.
  """
  _validate.integer('pictures', pictures, 0)
  files = run_folder.read(run)
  draws = build.draws_of(files.config)
  # Nothing that a file names is imported.
  known = files.config.get('metrics') or ()
  names = [name for name in known if name in metrics.NAMES] or metrics.DEFAULT
  models = []
  for part in files.parts:
    scored = [record for record in part.records if record['references']]
    rows = (
      evaluation.summarize(scored, metrics=names, **draws) if scored else []
    )
    source = sources.of_part(files, part, clusters)
    models.append(ModelReport(part, rows, source))
  return _write(files, models, out, pictures)


def write(
  workdir: str | os.PathLike[str],
  models: Mapping[str, tuple[Sequence[Record], Rows, gallery.Source | None]],
) -> Path:
  """Writes the report of records that are at hand; see `write_html`.

  Args:
    workdir: The run's folder, with config.json and summary.json.
    models: Records, their summary, and where pictures and maps come from, by
      label of the model, '' if there is one; None as the last looks for the
      pictures alone.

  Returns:
    The file.
  """
  folder = Path(workdir)
  files = run_folder.read_settings(folder)
  parts = []
  for label, (records, rows, source) in models.items():
    part = run_folder.part(folder, label, records)
    if source is None:
      source = sources.of_part(files, part, clusters=False)
    parts.append(ModelReport(part, rows, source))
  return _write(files, parts, None, PICTURES)


def _write(
  run: run_folder.RunFolder,
  models: Sequence[ModelReport],
  out: str | os.PathLike[str] | None,
  pictures: int,
) -> Path:
  """Writes the report of a run whose files were read."""
  folder = run.folder
  title = folder.resolve().name or 'run'
  state = _state(models, run.summary)
  parts = [
    markup.section('run', 'Run', *_facts(run, models)),
    _findings(models, run.summary) if state is None else None,
    _figures(folder, models, fresh=state is None),
    _gallery(models, pictures) if pictures else None,
    _scores(models),
    _settings(run, models),
  ]
  shown = [part for part in parts if part is not None]
  text = markup.document(
    f'{title}: report of a run',
    markup.tag(
      'header',
      markup.tag('h1', f'Run {title}'),
      markup.tag('p', state, class_='warning') if state else None,
      _contents(shown),
    ),
    markup.tag('main', shown),
  )
  path = Path(folder / NAME if out is None else out)
  jsonl.write_atomically(path, text.encode('utf-8', 'backslashreplace'))
  return path


def _contents(shown: Sequence[markup.Element]) -> markup.Element:
  """Makes the links to the sections."""
  links = []
  for section in shown:
    heading = section[0]
    link = markup.tag(
      'a', heading.text, href=f'#{section.get("aria-labelledby")}'
    )
    links.append(markup.tag('li', link))
  return markup.tag('nav', markup.tag('ul', links), aria_label='Sections')


def _state(
  models: Sequence[ModelReport], summary: Mapping[str, Any]
) -> str | None:
  """Returns a sentence about a run that is not finished; None if it is."""
  count = sum(len(model.part.records) for model in models)
  for model in models:
    codecs = choice.codecs_of(model.part.records)
    most = max(row['images'] for row in codecs)
    if any(row['records'] < most * row['seeds'] for row in codecs):
      return (
        f'This run is not finished: {count:,} captions so far, of some codecs'
        ' fewer than of others. The same command goes on.'
      )
  if not summary:
    return (
      f'{count:,} captions, of which no report was written yet: the run may not'
      ' be finished. The same command goes on.'
    )
  if not _agrees(models, summary):
    return (
      'Records were added since the last report: findings are left out, and the'
      ' figures are drawn anew.'
    )
  return None


def _agrees(models: Sequence[ModelReport], summary: Mapping[str, Any]) -> bool:
  """Whether a summary is of these records, by the numbers of pictures."""
  rows = summary.get('rows')
  groups = [*rows.values()] if isinstance(rows, Mapping) else [rows or ()]
  before = [
    sorted((r['images'], r['seeds']) for r in group) for group in groups
  ]
  now = [sorted((r['images'], r['seeds']) for r in m.rows) for m in models]
  return sorted(before) == sorted(now)


def _facts(
  run: run_folder.RunFolder, models: Sequence[ModelReport]
) -> list[markup.Element]:
  """Makes the facts of a run, for each of its models."""
  elements = []
  for model in models:
    if model.part.label:
      elements.append(markup.tag('h3', model.part.label))
    items = sections.headline(model.part, run)
    elements.append(sections.facts(items))
    if warning := unlike.of_records(model.part.records):
      elements.append(markup.tag('p', warning, class_='warning'))
  return elements


def _findings(
  models: Sequence[ModelReport], summary: Mapping[str, Any]
) -> markup.Element | None:
  # The facts of a model tell of unlike pictures already.
  told = {'', None, *(unlike.of_records(m.part.records) for m in models)}
  findings = [*(summary.get('findings') or ()), summary.get('remark')]
  findings = [text for text in findings if text not in told]
  if not findings:
    return None
  items = [markup.tag('li', text) for text in findings]
  return markup.section('findings', 'Findings', markup.tag('ul', items))


def _figures(
  folder: Path, models: Sequence[ModelReport], fresh: bool
) -> markup.Element | None:
  """Makes the figures: those in the folder, or new ones of the records."""
  items = sections.saved_figures(folder) if fresh else []
  if not items:
    items = sections.draw_figures([(m.part.label, m.rows) for m in models])
  if not items:
    return None
  return markup.section('figures', 'Figures', *sections.figures(items))


def _scores(models: Sequence[ModelReport]) -> markup.Element:
  tables = []
  for model in models:
    if model.part.label:
      tables.append(markup.tag('h3', model.part.label))
    if not model.rows:
      tables.append(markup.tag('p', 'No picture has captions to compare with.'))
      continue
    level = f'{100 * model.rows[0]["level"]:g}%'
    label = f'Scores of all codecs, with {level} intervals'
    tables.append(sections.scores(label, model.rows))
  return markup.section('scores', 'Scores', *tables)


def _gallery(models: Sequence[ModelReport], pictures: int) -> markup.Element:
  """Makes the gallery of all models."""
  content: list[Any] = [
    markup.tag(
      'p',
      'A square is a place of the grid of vectors: what arrives as one vector'
      ' has one colour, and grey places none. ',
      markup.tag('mark', 'Marked'),
      ' words are not those of the closest reference in their place, and words'
      ' of it may be missing.',
      class_='note',
    )
  ]
  for number, model in enumerate(models):
    made = gallery.make(
      model.part.records,
      model.rows or choice.codecs_of(model.part.records),
      model.source,
      pictures,
      number,
    )
    if model.part.label:
      content.append(markup.tag('h3', model.part.label))
    content.append(markup.tag('p', ' '.join(made.notes), class_='note'))
    content.append(made.entries)
  return markup.section('gallery', 'Gallery', *content)


def _settings(
  run: run_folder.RunFolder, models: Sequence[ModelReport]
) -> markup.Element:
  """Makes the settings, folded away."""
  tables = {'Config': run.config}
  for model in models:
    name = f'Records of {model.part.label}' if model.part.label else 'Records'
    tables[name] = model.part.settings
  tables['Made with'] = run.summary.get('made_with') or {}
  known = [
    markup.details(name, sections.settings_table(name, values))
    for name, values in tables.items()
    if values
  ]
  note = None if known else markup.tag('p', 'None are recorded.')
  return markup.section('settings', 'Settings', *known, note)
