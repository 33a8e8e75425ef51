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
  task_lines,
)

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

NAME = 'report.html'
PICTURES = 12


class ModelReport(NamedTuple):
  """Model of a run, or task of several.

  Attributes:
    part: Its label, records and settings.
    tables: Summaries of the records that have references, by the headings of
      their tables; empty if none has.
    source: Where pictures and maps come from.
  """

  part: run_folder.Part
  tables: Mapping[str, Rows]
  source: gallery.Source

  @property
  def rows(self) -> Rows:
    """The first summary, of which the gallery chooses codecs; may be empty."""
    return next(iter(self.tables.values()), [])


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
  models = []
  for part in files.parts:
    source = sources.of_part(files, part, clusters)
    models.append(ModelReport(part, _summarize(files.config, part), source))
  return _write(files, models, out, pictures)


def _summarize(
  config: Mapping[str, Any], part: run_folder.Part
) -> dict[str, Rows]:
  """Returns summaries of the records that have references, by their heading."""
  scored = [record for record in part.records if record['references']]
  if not scored:
    return {}
  # Nothing that a file names is imported.
  known = [n for n in config.get('metrics') or () if n in metrics.NAMES]
  names = known or evaluation.metrics_of(scored, strict=False)
  groups = {part.label: scored}
  if part.task:
    lines = task_lines.of_config(config)
    groups = task_lines.records_by_title(scored, lines, part.task)
  draws = build.draws_of(config)
  return {
    title: evaluation.summarize(
      records, metrics=names or metrics.DEFAULT, **draws
    )
    for title, records in groups.items()
  }


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
    tables = {label: rows} if rows else {}
    parts.append(ModelReport(part, tables, source))
  return _write(files, parts, None, PICTURES)


def write_tasks(
  workdir: str | os.PathLike[str],
  tasks: Mapping[
    str, tuple[Sequence[Record], Mapping[str, Rows], gallery.Source]
  ],
) -> Path:
  """Writes the report of several tasks; see `write`.

  Args:
    workdir: The run's folder, with config.json and summary.json.
    tasks: Records, their summaries by the title of the line, and where pictures
      and maps come from, by the name of the task.

  Returns:
    The file.
  """
  folder = Path(workdir)
  files = run_folder.read_settings(folder)
  parts = [
    ModelReport(
      run_folder.task_part(folder, task, records, files.config), tables, source
    )
    for task, (records, tables, source) in tasks.items()
  ]
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
    _figures(run, models, fresh=state is None),
    _task_tables(run, models) if state is None else None,
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
  records = [record for model in models for record in model.part.records]
  texts = f'{len(records):,} {run_folder.noun(records)}'
  for model in models:
    codecs = choice.codecs_of(model.part.records)
    most = max(row['records'] / row['seeds'] for row in codecs)
    if any(row['records'] < most * row['seeds'] for row in codecs):
      return (
        f'This run is not finished: {texts} so far, of some codecs'
        ' fewer than of others. The same command goes on.'
      )
  if not summary:
    return (
      f'{texts}, of which no report was written yet: the run may not'
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
  now = [
    sorted((r['images'], r['seeds']) for r in table)
    for model in models
    for table in model.tables.values() or [[]]
  ]
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
  control = (summary.get('control') or {}).get('findings') or ()
  findings = [*(summary.get('findings') or ()), *control, summary.get('remark')]
  findings = [text for text in findings if text not in told]
  if not findings:
    return None
  items = [markup.tag('li', text) for text in findings]
  return markup.section('findings', 'Findings', markup.tag('ul', items))


def _tables(models: Sequence[ModelReport]) -> dict[str, Rows]:
  """Returns the summaries of all models or tasks by their headings."""
  return {t: rows for model in models for t, rows in model.tables.items()}


def _figures(
  run: run_folder.RunFolder, models: Sequence[ModelReport], fresh: bool
) -> markup.Element | None:
  """Makes the figures: those in the folder, or new ones of the records."""
  items = sections.saved_figures(run.folder) if fresh else []
  if not items and any(model.part.task for model in models):
    drawn = task_lines.draw(_tables(models), run.config.get('k'))
    items = [*map(sections.drawn_figure, drawn, drawn.values())]
  elif not items:
    items = sections.draw_figures([*_tables(models).items()])
  if not items:
    return None
  return markup.section('figures', 'Figures', *sections.figures(items))


def _task_tables(
  run: run_folder.RunFolder, models: Sequence[ModelReport]
) -> markup.Element | None:
  """Makes the tables of a run of several tasks."""
  if not any(model.part.task for model in models):
    return None
  tables = task_lines.tables(_tables(models), run.config, run.summary)
  return markup.section('kept', 'What is kept', *tables) if tables else None


def _scores(models: Sequence[ModelReport]) -> markup.Element:
  tables = []
  for model in models:
    if not model.tables:
      if model.part.label:
        tables.append(markup.tag('h3', model.part.label))
      tables.append(markup.tag('p', 'No picture has captions to compare with.'))
    for title, rows in model.tables.items():
      if title:
        tables.append(markup.tag('h3', title))
      level = f'{100 * rows[0]["level"]:g}%'
      label = f'Scores of all codecs, with {level} intervals'
      tables.append(sections.scores(label, rows))
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
