"""Share of each task's score that codecs keep: questions beside captions."""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import ml_collections

from collab_jax import (
  _precision,
  _validate,
  codecs,
  distributed,
  evaluation,
  jsonl,
  plots,
)
from collab_jax.evaluation.report import budgets, columns, labels, text
from collab_jax.models import paligemma
from collab_jax.studies import (
  build,
  headline,
  html_report,
  study,
  sweep,
  tradeoff,
)


class TaskLine(NamedTuple):
  """Line of the figure: questions of some kinds.

  Attributes:
    records: Answers to them.
    rows: Their summary.
  """

  records: Sequence[study.Record]
  rows: study.Rows


class TaskStudy:
  """Study of several tasks on the same codecs, from configs/tasks.py.

    study = TaskStudy(tasks.get_config())
    study.validate()
    print(study.report(study.run('runs/tasks'), 'runs/tasks'))

  Each task is a `TradeoffStudy`, whose records are in a folder of the run's;
  all share the model, and a picture's message is made once for all of them.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    load: Callable[[], paligemma.Model] | None = None,
  ):
    """Binds a config; nothing is checked or loaded yet.

    Args:
      config: The config.
      load: Returns the model; None loads the config's.

    Raises:
      ValueError: A line of the figure is no title, task and kinds, or two have
        the same title.
    """
    self.config = config
    self._fields = cast(Any, config)
    _check_lines(self._fields.lines)
    load = functools.cache(load or functools.partial(build.load_model, config))
    names = dict.fromkeys(task for _, task, _ in self._fields.lines)
    self.studies = {
      name: tradeoff.TradeoffStudy(_with_task(config, name), load)
      for name in names
    }
    kept = evaluation.MessageCache()
    for each in self.studies.values():
      each.kept = kept

  def validate(self) -> None:
    """Checks the config before work begins.

    Raises:
      ValueError: As of `Study.validate`, or a setting of the report is out of
        range.
    """
    fields = self._fields
    if not self.studies:
      raise _validate.error('lines', (), 'one or more lines of the figure')
    if not fields.full:
      raise _validate.error('full', False, 'True: shares are of all vectors')
    _validate.integer('k', fields.k)
    if fields.methods and fields.k not in fields.ks:
      listed = ', '.join(map(str, fields.ks)) or 'of which there are none'
      do = 'the findings are about k vectors; add it to ks'
      raise _validate.error('k', fields.k, f'one of ks, {listed}', do)
    for name, most in (('budgets', math.inf), ('shares', 1)):
      for value in fields[name]:
        _validate.number(name, value, 0, most)
    if 0 in fields.shares:
      raise _validate.error('shares', 0, 'shares above 0 up to 1')
    for each in self.studies.values():
      each.validate()
      if not len(each.data):
        raise _validate.error(
          'limit', fields.limit, f'at least one picture of {each.data.name}'
        )
    _check_folders([*self.studies])
    self._check_kinds()
    if fields.control:
      self._check_control()

  def _check_kinds(self) -> None:
    """Raises ValueError for kinds of questions that a line's task has not."""
    for title, name, kinds in self._fields.lines:
      each, field = self.studies[name], f'lines: kind of {title}'
      asked = headline.kinds(each.data)
      # Few pictures may lack questions of kinds that the task has.
      known = {*(asked or ()), *(each.task.kinds if each.task else ())}
      for kind in kinds if known else ():
        if kind not in known:
          raise _validate.unknown(field, kind, known)
      if kinds and asked is not None and not asked & {*kinds}:
        raise _validate.error(
          field,
          ', '.join(kinds),
          f'some of {", ".join(sorted(asked))}: kinds of the questions about'
          f' {len(each.data):,} pictures',
          'raise limit, or leave the line out',
        )

  def _check_control(self) -> None:
    """Raises ValueError unless the control is an image codec of the config."""
    control = self._control()
    if not isinstance(control, codecs.ImageCodecSpec):
      raise _validate.error(
        'control',
        control.name,
        "an image codec, or '' for none",
        'features in its place do not tell for which questions a reduced'
        ' picture is enough',
      )
    names = [spec.name for spec in self._first.specs]
    if control.name not in names:
      raise _validate.unknown('control', control.name, names, "'' for none")

  def describe(self) -> str:
    """Returns the headline: model, tasks, devices, and the work ahead."""
    lines = {'model': headline.model(self._first.model)}
    for name, each in self.studies.items():
      counts = len(self._fields.seeds), len(each.blind), len(each.data)
      lines[name] = headline.captions(
        each.bound_codecs,
        each.captioner.uses_key,
        *counts,
        headline.questions(each.data),
      )
    mesh = build.make_mesh(self.config)
    return headline.render({**lines, 'devices': headline.devices(mesh)})

  def run(
    self, workdir: str | os.PathLike[str], progress: bool = True
  ) -> dict[str, Any]:
    """Makes the records of all tasks, or those that a folder lacks.

    Args:
      workdir: Folder of the run.
      progress: Show bars.

    Returns:
      Records by the name of the task.
    """
    self._begin(workdir)
    return {
      name: each.run(html_report.records_of(workdir, name), progress)
      for name, each in self.studies.items()
    }

  def run_by(
    self, options: sweep.SweepOptions, workdir: str | os.PathLike[str]
  ) -> dict[str, Any]:
    """Checks the config and makes the records, perhaps by an engine.

    Args:
      options: Settings of a launcher's flags.
      workdir: Folder of the run.

    Returns:
      Records by the name of the task.

    Raises:
      SystemExit: A unit was made, and there is nothing to report yet.
      ValueError: As of `validate`, or units failed.
    """
    options.leave_work([*self.studies.values()])
    self.validate()
    if not (options.engine or options.shard):
      print(self.describe(), flush=True)
      return self.run(workdir)
    self._begin(workdir)
    folders = [
      html_report.records_of(workdir, name).parent for name in self.studies
    ]
    parts = options.run_parts([*self.studies.values()], workdir, folders)
    return dict(zip(self.studies, parts, strict=True))

  def _begin(self, workdir: str | os.PathLike[str]) -> None:
    """Writes config.json, by which a run that is killed has a report.

    That of records is kept: a command with other settings is refused later.
    """
    path = Path(workdir) / 'config.json'
    files = [html_report.records_of(workdir, name) for name in self.studies]
    if path.exists() and any(
      file.exists() or (file.parent / 'units').exists() for file in files
    ):
      return
    if distributed.is_first():
      jsonl.write_json(path, self.config.to_dict())

  def report(
    self, records: Mapping[str, Any], workdir: str | os.PathLike[str]
  ) -> str:
    """Writes figures, table.txt, config.json, summary.json and report.html.

    Args:
      records: From `run`.
      workdir: Folder to write to.

    Returns:
      What to print. Of several processes the first alone writes and prints.
    """
    if not distributed.is_first():
      return ''
    settings = self.config.to_dict()
    jsonl.write_json(Path(workdir) / 'config.json', settings)
    draws = build.draws_of(self.config)
    lines = {}
    for title, task, kinds in self._fields.lines:
      answers = budgets.line_of(records[task], kinds)
      metrics = self.studies[task].metrics
      rows = evaluation.summarize(answers, metrics=metrics, **draws)
      lines[title] = TaskLine(answers, rows)
    report = analyze(lines, self._fields, draws)
    if self._fields.control:
      name = self._control().name
      report = with_control(report, lines, name, self._fields, draws)
    rows = {title: line.rows for title, line in lines.items()}
    made_with = self._first.made_with
    here = not self._first.elsewhere
    shown = study.write_report(
      report, rows, workdir, settings, evaluated=here, made_with=made_with
    )
    self._write_html(records, rows, workdir)
    return shown

  def _write_html(
    self,
    records: Mapping[str, Any],
    rows: Mapping[str, study.Rows],
    workdir: str | os.PathLike[str],
  ) -> None:
    """Writes report.html, a gallery for each task."""
    parts = {}
    for name, each in self.studies.items():
      titles = [title for title, task, _ in self._fields.lines if task == name]
      own = {title: rows[title] for title in titles}
      parts[name] = records[name], own, each.gallery_source()
    with _precision.matmul_precision(self._fields.precision):
      html_report.write_tasks(workdir, parts)

  @property
  def _first(self) -> tradeoff.TradeoffStudy:
    """The study of the first task; all have the same model and codecs."""
    return next(iter(self.studies.values()))

  def _control(self) -> codecs.CodecSpec:
    """Returns the codec that answers the easy questions."""
    fields = self._fields
    spec = codecs.parse(fields.control, fields.split, fields.coding)
    return spec.validate(self._first.dimensions)


def _check_lines(lines: Any) -> None:
  """Raises ValueError unless lines are titles, tasks and kinds."""
  titles = []
  for line in lines:
    match line:
      case (str(title), str(), list() | tuple()) if title.strip():
        titles.append(title)
      case _:
        raise _validate.error(
          'lines', line, 'a title, a task and its kinds, () for all'
        )
  if len({*titles}) < len(titles):
    raise _validate.error('lines', titles, 'a title of its own for each')


def _check_folders(names: Sequence[str]) -> None:
  """Raises ValueError if two tasks would write into one folder."""
  folders: dict[str, str] = {}
  for name in names:
    folder = html_report.records_of('', name).parent.name
    if folder in folders:
      raise _validate.error(
        'lines',
        f'{folders[folder]} and {name}',
        f'tasks of their own folders, not {folder} of both',
        'run them into two workdirs',
      )
    folders[folder] = name


def _with_task(
  config: ml_collections.ConfigDict, name: str
) -> ml_collections.ConfigDict:
  """Returns the config of one of the tasks."""
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.task = name
    del single.lines
  return single


def read_lines(
  workdir: str | os.PathLike[str], lines: Sequence[Sequence[Any]]
) -> dict[str, list[study.Record]]:
  """Reads the records of the lines of a figure.

  Args:
    workdir: Folder of a run.
    lines: The config's: title, task and kinds of each.

  Returns:
    Records by the title of the line.

  Raises:
    ValueError: The folder lacks a task's records.
  """
  names = dict.fromkeys(task for _, task, _ in lines)
  for name in names:
    if not html_report.records_of(workdir, name).exists():
      raise _validate.error(
        'workdir',
        os.fspath(workdir),
        f'a folder with {html_report.records_of("", name)}, of'
        ' experiments/tasks.py',
      )
  records = {
    n: evaluation.read_records(html_report.records_of(workdir, n))
    for n in names
  }
  return {
    title: budgets.line_of(records[task], kinds) for title, task, kinds in lines
  }


def analyze(
  lines: Mapping[str, TaskLine], fields: Any, draws: Mapping[str, Any]
) -> study.Report:
  """Returns what the lines of the figure say.

  Args:
    lines: By their titles.
    fields: Fields of the config.
    draws: Settings of the bootstrap.
  """
  rows = {title: line.rows for title, line in lines.items()}
  best = {
    title: budgets.best_within(line.records, line.rows, fields.budgets, **draws)
    for title, line in lines.items()
  }
  findings = [*_kept(rows, fields.k), *_needed(rows, fields.shares)]
  tables = [budgets.kept_table(rows, fields.k, each) for each in fields.shares]
  kept = [*tables, budgets.KEPT_NOTE] if tables else []
  table = [budgets.budget_table(best, rows), budgets.BUDGET_NOTE]
  within = table if fields.budgets else []
  blocks = [
    f'{title}\n{evaluation.table(each)}' for title, each in rows.items()
  ]
  sentences = study.wrap(
    findings, break_long_words=False, break_on_hyphens=False
  )
  parts = [*_wrap_note(kept), '\n'.join(sentences), *_wrap_note(within)]
  return study.Report(
    text='\n\n'.join(filter(None, parts)),
    table='\n\n'.join([*kept, *findings, *within, *blocks]),
    figures={
      'tasks': plots.tasks(rows, fields.k),
      'tasks_rate': plots.task_rates(rows),
    },
    summary={'best': best, 'findings': findings},
  )


def _wrap_note(parts: Sequence[str]) -> list[str]:
  """Returns tables, and the note behind them on lines of a terminal."""
  return [*parts[:-1], *('\n'.join(study.wrap([note])) for note in parts[-1:])]


def _kept(rows: Mapping[str, study.Rows], k: int) -> list[str]:
  """Returns how much of each task the paper's k centroids keep."""
  parts, lacking, example = [], {}, None
  for title, group in rows.items():
    curve = budgets.paper_curve(group)
    row = labels.at_k(curve, k)
    column = columns.column(group)
    full = labels.full(group)
    if row is None:
      lacking[title] = [f'{each["sent"]:g}' for each in curve]
      continue
    if full is None:
      continue
    example = row
    kept = column.kept(row)
    if kept is None or not full[column.name]:
      parts.append(f'{title} nothing, as all vectors score 0')
      continue
    low, high = (100 * (column.kept(row, e) or 0) for e in ('_low', '_high'))
    blind = budgets.blind_share(group)
    floor = '' if blind is None else f', blind {100 * blind:.0f}%'
    parts.append(f'{title} {100 * kept:.0f}% [{low:.0f}, {high:.0f}{floor}]')
  findings = []
  if example is not None:
    findings.append(
      f'{k} of {example["vectors"]} vectors by {budgets.paper_label(rows)}'
      f' ({text.size(example["bytes"])}) keep of the score of all vectors:'
      f' {"; ".join(parts)}.'
    )
  if lacking:
    sent = ', '.join(next(iter(lacking.values()))) or 'none'
    findings.append(
      f'Nothing is said of {k} vectors: of {budgets.paper_label(rows)} the'
      f' records of {", ".join(lacking)} have {sent}.'
    )
  return findings


def with_control(
  report: study.Report,
  lines: Mapping[str, TaskLine],
  name: str,
  fields: Any,
  draws: Mapping[str, Any],
) -> study.Report:
  """Adds what holds of the questions that small pictures get wrong.

  Args:
    report: From `analyze`.
    lines: By their titles.
    name: Name of the image codec of the figure and of the sentence.
    fields: Fields of the config.
    draws: Settings of the bootstrap.
  """
  scored = {title: line for title, line in lines.items() if _has_scores(line)}
  rows = {title: line.rows for title, line in scored.items()}
  control = {
    title: budgets.control_within(
      line.records, line.rows, fields.budgets, **draws
    )
    for title, line in scored.items()
  }
  hard = {}
  for title, line in scored.items():
    metric = columns.column(line.rows).name
    if wrong := evaluation.of_wrong(line.records, name, metric):
      hard[title] = evaluation.summarize(wrong, metrics=[metric], **draws)
  if not hard:
    return _without_control(report, name, [*scored])
  sizes = [
    row['bytes']
    for line in scored.values()
    for row in line.rows
    if row['name'] == name
  ]
  findings = _control(hard, f'{name} ({text.size(sizes[0])})', fields.k)
  shown = []
  if any(control.values()):
    table = budgets.control_table(control, rows)
    shown = [table, '\n'.join(study.wrap([budgets.CONTROL_NOTE]))]
  title = (
    f'The same, of questions that a picture of {text.size(sizes[0])} misses'
  )
  return report._replace(
    text='\n\n'.join([report.text, *shown, *study.wrap(findings)]),
    table='\n\n'.join([report.table, *shown, *findings]),
    figures={
      **report.figures,
      'tasks_control': plots.tasks(hard, fields.k, title, [*lines]),
    },
    summary={
      **report.summary,
      'control': {'findings': findings, 'within': control, 'rows': hard},
    },
  )


def _without_control(
  report: study.Report, name: str, scored: Sequence[str]
) -> study.Report:
  """Adds why nothing can be said of the questions that a codec gets wrong."""
  why = f'it gets no question of {", ".join(scored)} wrong'
  if not scored:
    why = 'the scores are of whole sets, not of each answer'
  finding = f'{name} is no control: {why}.'
  return report._replace(
    text='\n\n'.join([report.text, *study.wrap([finding])]),
    table=f'{report.table}\n\n{finding}',
    summary={**report.summary, 'control': {'findings': [finding]}},
  )


def _has_scores(line: TaskLine) -> bool:
  """Whether each answer has a score; BLEU is of the whole set."""
  metric = columns.column(line.rows).name
  return metric in line.records[0].get('scores', ())


def _control(hard: Mapping[str, study.Rows], control: str, k: int) -> list[str]:
  """Returns what k centroids keep of the questions that a codec gets wrong."""
  parts = []
  for title, rows in hard.items():
    column, full = columns.column(rows), labels.full(rows)
    at_k = labels.at_k(budgets.paper_curve(rows), k)
    if full is None or at_k is None:
      continue
    scores = f'{column.text(at_k)} of {column.text(full)}'
    parts.append(f'{title} {scores} ({at_k["questions"]:,} questions)')
  if not parts:
    return []
  return [
    f'Of the questions that {control} gets wrong, {k} vectors by'
    f' {budgets.paper_label(hard)} score, of what all vectors score:'
    f' {"; ".join(parts)}.'
  ]


def _needed(
  rows: Mapping[str, study.Rows], shares: Sequence[float]
) -> list[str]:
  """Returns how many bytes keep a share of each task."""
  sentences = []
  for share in shares:
    parts = []
    for title, group in rows.items():
      if labels.full(group) is None:
        continue
      coded = [row for row in group if not labels.is_full(row)]
      words = [
        f'{name} none' if row is None else f'{name} {text.size(row["bytes"])}'
        for name, row in budgets.cheapest_with(coded, share).items()
      ]
      parts.append(f'{title} {", ".join(words)}')
    sentences.append(
      f'Fewest bytes that keep {text.percent(share)}: {"; ".join(parts)}.'
    )
  return sentences
