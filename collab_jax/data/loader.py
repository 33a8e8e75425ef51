"""Prefetching, and subsets without damaged pictures."""

from collections.abc import Callable, Iterator
from concurrent import futures
import dataclasses
from typing import Any

import grain.python as grain
import tqdm

from collab_jax.data import pictures
from collab_jax.data.example import Example


@dataclasses.dataclass(frozen=True)
class Subset:
  """Subset of a reader's examples, under its name.

  Attributes:
    data: The reader.
    indices: Indices of the examples, in this order.
  """

  data: Any
  indices: tuple[int, ...]

  @property
  def name(self) -> str:
    """Name of the reader."""
    return self.data.name

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Example:
    return self.data[self.indices[index]]


def readable(
  data: Any,
  threads: int = 4,
  progress: bool = False,
  part: tuple[int, int] = (0, 1),
  gather: Callable[[Any], list[Any]] = lambda faults: [faults],
) -> tuple[Any, list[str]]:
  """Leaves out damaged pictures.

  All pictures are checked before an evaluation, so that their number is known
  and the same in every run.

  Args:
    data: A reader; one without a method `check`, such as the generated scenes,
      has no damaged pictures.
    threads: Number of threads.
    progress: Whether to show a progress bar.
    part: Which of how many processes this is: each checks every n-th picture.
    gather: Returns what all of them give, in their order.

  Returns:
    The reader if no picture is damaged, else a `Subset` of it; and the errors
    of the damaged pictures, which name their files.

  Raises:
    FileNotFoundError: A picture was removed since the reader was made.
  """
  if not hasattr(data, 'check'):
    return data, []

  def fault(index):
    try:
      data.check(index)
    except pictures.PictureError as error:
      return str(error)
    return None

  with futures.ThreadPoolExecutor(threads) as pool:
    indices = range(part[0], len(data), part[1])
    found = list(
      tqdm.tqdm(
        pool.map(fault, indices),
        total=len(indices),
        unit=' pictures',
        desc=f'checking {data.name}',
        disable=not progress,
        leave=False,
        dynamic_ncols=True,
      )
    )
  faults: list[str | None] = [None] * len(data)
  for i, texts in enumerate(gather(found)):
    faults[i :: part[1]] = texts
  broken = [text for text in faults if text is not None]
  if not broken:
    return data, []
  indices = tuple(i for i, text in enumerate(faults) if text is None)
  return Subset(data, indices), broken


def prefetch(data: Any, threads: int = 4, ahead: int = 64) -> Iterator[Example]:
  """Yields a reader's examples in order, reading ahead on threads.

  Args:
    data: A reader with at least one example.
    threads: Number of threads, at most `ahead` of them used.
    ahead: Examples to keep ready, at least 1.

  Returns:
    An iterator, which raises the reader's exceptions.
  """
  # Grain warns of more threads than examples ahead.
  threads = min(threads, ahead)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
  return iter(grain.MapDataset.source(data).to_iter_dataset(options))
