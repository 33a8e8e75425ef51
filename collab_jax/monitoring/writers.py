"""Writers of numbers over steps: TensorBoard's event files, and W&B.

tensorboardX writes the event files without TensorFlow, which
`clu.metric_writers` needs; wandb is the library of Weights & Biases itself.
"""

from collections.abc import Callable, Mapping
import json
import os
from pathlib import Path
from typing import Any, Protocol
import uuid

from collab_jax import _validate


class MetricWriter(Protocol):
  """Place where numbers over steps go."""

  def write(
    self, step: int, values: Mapping[str, float], axis: str, group: str
  ) -> None:
    """Writes numbers by name; see `monitoring.write`.

    Args:
      step: Place on the axis.
      values: Numbers by name.
      axis: Name of the axis.
      group: Name of the group, '' for none.
    """
    ...

  def close(self) -> None:
    """Writes what is still in memory."""
    ...


MakeWriter = Callable[[Path, Mapping[str, Any]], MetricWriter]


class TensorBoardWriter:
  """Writer of event files, in a folder for each group and axis.

  A run that goes on from a checkpoint takes some steps again: what the files
  had of them is marked as outdated.
  """

  def __init__(
    self, summary_writer: Any, workdir: Path, settings: Mapping[str, Any]
  ):
    """Binds a folder; the files are begun with the first numbers.

    Args:
      summary_writer: The class `tensorboardX.SummaryWriter`.
      workdir: Folder of the run; gets tensorboard/.
      settings: The run's config, shown as a text.
    """
    self._summary_writer = summary_writer
    self._folder = workdir / 'tensorboard'
    self._settings = json.dumps(settings, indent=2, default=str)
    self._files: dict[Path, Any] = {}

  def write(
    self, step: int, values: Mapping[str, float], axis: str, group: str
  ) -> None:
    """Writes numbers by name."""
    steps = axis == 'step'
    folder = self._folder / group / ('' if steps else axis)
    if folder not in self._files:
      purge = step if steps else None
      file = self._summary_writer(str(folder), purge_step=purge)
      lines = self._settings.splitlines()
      file.add_text('config', '\n'.join(f'    {line}' for line in lines), step)
      self._files[folder] = file
    for name, value in values.items():
      self._files[folder].add_scalar(name, value, step)
    self._files[folder].flush()

  def close(self) -> None:
    """Closes the files."""
    for file in self._files.values():
      file.close()


class WandbWriter:
  """Writer of a run of Weights & Biases, which goes on when a run does."""

  def __init__(self, wandb: Any, workdir: Path, settings: Mapping[str, Any]):
    """Begins or resumes a run.

    Args:
      wandb: The module.
      workdir: Folder of the run; gets wandb/, and wandb_run.json with the
        run's id.
      settings: The run's config.

    Raises:
      ValueError: Nobody is logged in, or the service refuses.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    place = workdir / 'wandb_run.json'
    if place.exists():
      run_id = json.loads(place.read_text())['id']
    else:
      run_id = uuid.uuid4().hex[:8]
      place.write_text(json.dumps({'id': run_id}) + '\n')
    try:
      self._run = wandb.init(
        project=os.environ.get('WANDB_PROJECT', 'collab_jax'),
        name=workdir.resolve().name,
        dir=str(workdir),
        id=run_id,
        resume='allow',
        config=dict(settings),
        settings=wandb.Settings(console='off'),
      )
    except wandb.errors.Error as error:
      raise ValueError(
        f'log: got wandb, which cannot begin a run ({error}); run `wandb'
        ' login`, or set WANDB_MODE=offline and `wandb sync` the folder later'
      ) from error
    self._defined: set[str] = set()

  def write(
    self, step: int, values: Mapping[str, float], axis: str, group: str
  ) -> None:
    """Writes numbers by name."""
    if group:
      axis = f'{group}/{axis}'
      values = {f'{group}/{name}': value for name, value in values.items()}
    for name in values.keys() - self._defined:
      self._run.define_metric(name, step_metric=axis)
      self._defined.add(name)
    self._run.log({axis: step, **values})

  def close(self) -> None:
    """Uploads what is left, if the service is used."""
    self._run.finish()


def _tensorboard() -> MakeWriter:
  import tensorboardX  # pyright: ignore[reportMissingImports]

  return lambda *run: TensorBoardWriter(tensorboardX.SummaryWriter, *run)


def _wandb() -> MakeWriter:
  import wandb  # pyright: ignore[reportMissingImports]

  return lambda *run: WandbWriter(wandb, *run)


NAMES = {'tensorboard': _tensorboard, 'wandb': _wandb}


def find(name: str) -> MakeWriter:
  """Finds a writer, and imports its package.

  Args:
    name: A key of `NAMES`.

  Returns:
    A function that makes the writer of a run's folder and config.

  Raises:
    ValueError: An unknown name.
    ModuleNotFoundError: The extra is not installed.
  """
  if name not in NAMES:
    raise _validate.unknown('log', name, NAMES)
  try:
    return NAMES[name]()
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"--log={name} needs the extra 'logging', {error}:"
      " pip install 'collab_jax[logging]'",
      name=error.name,
    ) from error
