"""`Study`: an experiment from a config to records, figures and tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import os
from pathlib import Path
import textwrap
from typing import Any, NamedTuple, cast

from matplotlib import figure as figures
import ml_collections

from collab_jax import (
  _precision,
  codecs,
  distributed,
  evaluation,
  jsonl,
  monitoring,
  plots,
  provenance,
  sharding,
  tasks,
)
from collab_jax import captioner as captioning
from collab_jax.evaluation import identity
from collab_jax.evaluation.report import unlike
from collab_jax.models import decoding, paligemma
from collab_jax.studies import build, headline, html_report

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
Pass = tuple[str, int]  # Name of a codec or baseline, and seed.
_SHOWN = 8  # Pictures whose captions are printed.


class Report(NamedTuple):
  """Results of a study.

  Attributes:
    text: What is printed.
    table: Contents of table.txt.
    figures: Figures by the name of their files.
    summary: Further entries of summary.json.
  """

  text: str
  table: str
  figures: Mapping[str, figures.Figure]
  summary: Mapping[str, Any]


class Study:
  """Experiment from a config to files; model, data and codecs are made once.

    study = TradeoffStudy(tradeoff.get_config('mode=smoke'))
    study.validate()
    records = study.run('runs/demo/records.jsonl')
    print(study.report(records, 'runs/demo'))

  Attributes:
    config: A config of an evaluation, from a file in configs/.
    elsewhere: Whether other processes make the records: this one then needs
      neither the devices of the config nor the weights.
    kept: Messages that studies of the same pictures share; None for none.
  """

  elsewhere = False
  kept: evaluation.MessageCache | None = None

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    load: Callable[[], paligemma.Model] | None = None,
  ):
    """Binds a config; nothing is checked or loaded yet.

    Args:
      config: The config.
      load: Returns the model, which studies may share; None loads the
        config's.
    """
    self.config = config
    self._fields = cast(Any, config)  # The types of its fields are unknown.
    self._load = load or functools.partial(build.load_model, config)

  def make_specs(self) -> list[codecs.CodecSpec]:
    """Returns the specs of all codecs, not yet checked against the model."""
    return build.make_specs(self.config)

  def analyze(self, records: Sequence[Record], rows: Rows) -> Report:
    """Returns what records say.

    Args:
      records: From `run`.
      rows: Their summary, from `evaluation.summarize`.
    """
    raise NotImplementedError

  @functools.cached_property
  def specs(self) -> list[codecs.CodecSpec]:
    """Specs of all codecs, checked against the model."""
    return self._validate()

  @functools.cached_property
  def dimensions(self) -> paligemma.Config:
    """Dimensions of the model, whose weights need not be loaded."""
    return build.dimensions(self.config)

  @functools.cached_property
  def model(self) -> paligemma.Model:
    """The model, loaded when it is first asked for."""
    return self._load()

  @functools.cached_property
  def captioner(self) -> captioning.Captioner:
    """The model's captioner, with the config's prompt and decoding."""
    return build.make_captioner(self.config, self.model)

  @functools.cached_property
  def data(self) -> Any:
    """Reader of the pictures, at the model's size."""
    try:
      size = self.dimensions.vision.image_size
    except (ValueError, OSError):
      build.make_data(self.config)  # What is wrong with it is said first.
      raise
    return build.make_data(self.config, size)

  @functools.cached_property
  def task(self) -> tasks.Task | None:
    """The task whose questions are answered; None for captions."""
    return build.make_task(self.config)

  @property
  def draws(self) -> dict[str, Any]:
    """Settings of the bootstrap; see `build.draws_of`."""
    return build.draws_of(self.config)

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of the metrics; tables and curves are of the first."""
    return build.metrics_of(self.config)

  def describe(self) -> str:
    """Returns the headline: model, data, devices, and the work ahead."""
    fields = self._fields
    draws = self.captioner.uses_key
    counts = len(fields.seeds), len(self.blind), len(self.data)
    return headline.render(
      {
        'model': f'{headline.model(self.model)}, split after the'
        f' {fields.split}',
        'data': headline.data(self.data),
        'task': headline.task(
          self.task, self._fields.data_split, self.dimensions.name
        ),
        'devices': headline.devices(build.make_mesh(self.config)),
        'captions' if self.task is None else 'answers': headline.captions(
          self.bound_codecs, draws, *counts, headline.questions(self.data)
        ),
        'programs': headline.programs(
          self.bound_codecs,
          self.dimensions.vision.num_tokens,
          bool(self.blind),
        ),
        'time': 'measured by the second batch; the bar says it then',
      }
    )

  @property
  def blind(self) -> tuple[str, ...]:
    """Blind baselines; none where there are no captions to compare with."""
    uncaptioned = getattr(self.data, 'uncaptioned', False)
    return () if uncaptioned else tuple(self._fields.blind)

  @property
  def blind_names(self) -> list[str]:
    """Names of the blind baselines in records."""
    return [f'blind({kind})' for kind in self.blind]

  @functools.cached_property
  def passes(self) -> list[Pass]:
    """Names and seeds of all passes, in the order of the records.

    The model is loaded only if a codec of one's own needs it to tell whether it
    draws.
    """
    seeds = tuple(self._fields.seeds)
    texts = build.text_settings(self.config)
    all_draw = decoding.make(texts.decoding).uses_key
    passes = []
    for spec in self.specs:
      draws = all_draw or spec.uses_key
      if draws is None:
        draws = spec.bind(self.model).uses_key
      passes += [(spec.name, seed) for seed in (seeds if draws else seeds[:1])]
    return [*passes, *((name, seeds[0]) for name in self.blind_names)]

  @property
  def run_settings(self) -> dict[str, Any]:
    """Settings that all records share; see `evaluation.identity`."""
    method = identity.method_of(self.data, self.task)
    name = self.data.name
    return identity.settings(self.captioner, name, method, self.task)

  @functools.cached_property
  def made_with(self) -> dict[str, Any]:
    """Software, device and mesh that make the records."""
    mesh = sharding.sizes(build.make_mesh(self.config))
    return {**provenance.provenance(), 'mesh': mesh}

  @functools.cached_property
  def bound_codecs(self) -> list[codecs.Codec]:
    """All codecs, bound to the model."""
    return [spec.bind(self.model) for spec in self.specs]

  def validate(self) -> None:
    """Checks the config before work begins.

    The model is loaded only if a quantizer's parameters say whose features
    they are for.

    Raises:
      ValueError: A setting is out of range, there is no such data set, model,
        codec, file of parameters or decoding, or a codec does not fit the model
        or is there twice.
      ImportError: The module of a quantizer or codec cannot be imported.
    """
    _ = self.specs

  def _validate(self) -> list[codecs.CodecSpec]:
    specs = self.make_specs()
    build.check_fields(self.config, mesh=not self.elsewhere)
    _ = self.data
    load = None if self.elsewhere else lambda: self.model
    specs = [spec.validate(self.dimensions, load) for spec in specs]
    names = [spec.name for spec in specs]
    for name in names:
      if names.count(name) > 1:
        raise ValueError(f'methods, ks and codecs: {name} is there twice')
    return specs

  def run(self, path: str | os.PathLike[str], progress: bool = True) -> Any:
    """Makes the records, or those that a file lacks.

    Args:
      path: JSONL file of the records.
      progress: Show a bar.

    Returns:
      The records.

    Raises:
      ValueError: As `validate`, or as `evaluation.evaluate`.
    """
    return self.run_passes(path, None, progress)

  def run_passes(
    self,
    path: str | os.PathLike[str],
    passes: Collection[Pass] | None,
    progress: bool = True,
  ) -> Any:
    """Makes the records of some passes, or those that a file lacks.

    Args:
      path: JSONL file of the records.
      passes: Some of `passes`; None for all.
      progress: Show a bar.

    Returns:
      The records.

    Raises:
      ValueError: As `validate`, or as `evaluation.evaluate`.
    """
    bound, blind = self.bound_codecs, self.blind
    if passes is not None:
      names = {name for name, _ in passes}
      bound = [codec for codec in bound if codec.name in names]
      blind = blind if names & set(self.blind_names) else ()
    with _precision.matmul_precision(self._fields.precision):
      return evaluation.evaluate(
        bound,
        captioner=self.captioner,
        data=self.data,
        seeds=tuple(self._fields.seeds),
        path=path,
        batch_size=self._fields.batch_size,
        workers=self._fields.workers,
        progress=progress,
        blind=blind,
        passes=passes,
        task=self.task,
        kept=self.kept,
      )

  def report(self, records: Any, workdir: str | os.PathLike[str]) -> str:
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
    scored = [record for record in records if record['references']]
    rows: Rows = []
    if scored:
      rows = evaluation.summarize(scored, metrics=self.metrics, **self.draws)
      write_scores(rows)
      report = self.analyze(scored, rows)
      report = _with_remark(report, _unscored_text(records, scored))
      report = _with_remark(report, evaluation.unrelated_captions(rows))
    else:
      report = _captions_report(records)
    made_with = dict(self.made_with)
    mesh = made_with.pop('mesh')
    report = report._replace(summary={'mesh': mesh, **report.summary})
    here = not self.elsewhere
    text = write_report(report, rows, workdir, settings, here, made_with)
    self._write_html(records, rows, workdir)
    return text

  def _edge(self) -> paligemma.Model:
    """Returns the model; its edge half where others have parts of it."""
    if distributed.number() == 1:
      return self.model
    return build.load_edge(self.config)

  def gallery_source(self) -> html_report.Source:
    """Returns where a gallery comes from; of maps if the model is at hand."""
    return html_report.Source(
      reader=lambda: self.data,
      model=self._edge if 'model' in vars(self) else None,
      specs={spec.name: lambda spec=spec: spec for spec in self.specs},
      batch_size=min(self._fields.batch_size, len(self.data)),
    )

  def _write_html(
    self, records: Sequence[Record], rows: Rows, workdir: str | os.PathLike[str]
  ) -> None:
    """Writes report.html, with maps if the model is at hand: it ran."""
    source = self.gallery_source()
    with _precision.matmul_precision(self._fields.precision):
      html_report.write(workdir, {'': (records, rows, source)})


def _captions_report(records: Sequence[Record]) -> Report:
  """Returns the captions of pictures that have none to compare with."""
  images = {record['image_id'] for record in records}
  shown = evaluation.captions_table(records, most=_SHOWN)
  remark = (
    f'{len(images):,} pictures without captions to compare with: theirs are in'
    ' records.jsonl and table.txt; nothing is scored or drawn.'
  )
  text = '\n'.join([shown, '', *wrap([remark])])
  table = evaluation.captions_table(records)
  if unlike_text := unlike.of_records(records):  # The evaluation has said it.
    remark = f'{remark} {unlike_text}'
    table = f'{table}\n\n{unlike_text}'
  return Report(text, table, {}, {'remark': remark})


def _unscored_text(records: Sequence[Record], scored: Sequence[Record]) -> str:
  """Returns how many pictures are not scored; '' if all are."""
  images, known = (
    {record['image_id'] for record in group} for group in (records, scored)
  )
  if images == known:
    return ''
  return (
    f'{len(images - known):,} of {len(images):,} pictures have no captions to'
    ' compare with: they are captioned in records.jsonl, and not scored.'
  )


def _with_remark(report: Report, remark: str) -> Report:
  """Adds a sentence to the text and the table of a report; '' adds nothing."""
  if not remark:
    return report
  return report._replace(
    text='\n'.join([report.text, '', *wrap([remark])]),
    table=f'{report.table}\n\n{remark}',
  )


def write_scores(rows: Rows) -> None:
  """Writes scores over the vectors sent to the monitor that is open.

  Args:
    rows: From `evaluation.summarize`.
  """
  for label, curve in evaluation.curves(rows).items():
    for row in curve:
      names = [*row['metrics'], 'bytes']
      scores = {f'{name}/{label}': row[name] for name in names}
      monitoring.write(round(row['sent']), scores, 'vectors')


def write_report(
  report: Report,
  rows: Any,
  workdir: str | os.PathLike[str],
  settings: Mapping[str, Any] | None,
  evaluated: bool = False,
  made_with: Mapping[str, Any] | None = None,
) -> str:
  """Writes the files of a report.

  Args:
    report: The report.
    rows: Rows that it was made of.
    workdir: Folder to write to.
    settings: The config as plain values, if it is known.
    evaluated: Whether the records come from an evaluation in this process,
      which has warned of unlike pictures.
    made_with: Software and device; by default those of this process.

  Returns:
    What to print.
  """
  workdir = Path(workdir)
  # Of several models there are rows for each.
  groups = rows.values() if isinstance(rows, Mapping) else [rows]
  remarks = filter(None, map(evaluation.unlike_pictures, groups))
  if remark := next(remarks, ''):
    warned = [] if evaluated else [*wrap([remark]), '']
    report = report._replace(
      text='\n'.join([*warned, report.text]),
      table=f'{report.table}\n\n{remark}',
      summary={'remark': remark, **report.summary},
    )
  for name, figure in report.figures.items():
    plots.save(figure, workdir / name)
  jsonl.write_atomically(workdir / 'table.txt', report.table + '\n')
  summary = {
    'settings': settings,
    'made_with': made_with or provenance.provenance(),
    **report.summary,
    'rows': rows,
  }
  jsonl.write_json(workdir / 'summary.json', summary)
  return report.text


def wrap(sentences: Sequence[str], **how: Any) -> list[str]:
  """Breaks sentences into lines of 78 letters; `how` is of `textwrap`."""
  return [
    textwrap.fill(sentence, 78, subsequent_indent='  ', **how)
    for sentence in sentences
  ]


def list_files(folder: str | os.PathLike[str]) -> str:
  """Returns the names of a folder's files but its lock, on one line."""
  if not distributed.is_first():
    return ''
  names = {path.name for path in Path(folder).iterdir()} - {'run.lock'}
  return ' '.join(sorted(names))
