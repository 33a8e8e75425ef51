"""Captions many picture files, into a file that a killed run goes on with."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import os
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple
import zlib

import tqdm

from collab_jax import codecs, data, jsonl
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  rpc,
)

# Pictures that are encoded at a time.
_BATCH = 8

# Of errors that the next picture need not meet, too.
_ITS_OWN = ('INVALID_ARGUMENT', 'INTERNAL')

# By their ends, in a folder; a file that is named is read whatever its end.
ENDS = (
  *('.avif', '.bmp', '.gif', '.jp2', '.jpeg', '.jpg'),
  *('.png', '.ppm', '.tif', '.tiff', '.webp'),
)


class RunSummary(NamedTuple):
  """What became of the files.

  Attributes:
    captioned: Those captioned by this run.
    before: Those that an earlier run had captioned.
    bad: Why others were not, by file.
    bytes: Of all messages of this run.
    seconds: How long it took.
  """

  captioned: int
  before: int
  bad: dict[str, str]
  bytes: int
  seconds: float


def pictures(folder: str | os.PathLike[str]) -> list[Path]:
  """The picture files in a folder and the folders in it, sorted.

  Args:
    folder: The folder.

  Returns:
    Files that end like pictures, see `ENDS`.

  Raises:
    FileNotFoundError: There are none.
  """
  found = sorted(
    path
    for path in Path(folder).rglob('*')
    if path.suffix.lower() in ENDS and path.is_file()
  )
  if not found:
    raise FileNotFoundError(
      f'{os.fspath(folder)} has no pictures: expected files that end in'
      f' {", ".join(ENDS)}'
    )
  return found


def picture_id(name: str) -> int:
  """A picture's id by its file's name, whatever else lies beside it."""
  return zlib.crc32(os.fsencode(name))


def checksum(path: Path) -> str:
  """What tells a picture file from another one of its name."""
  return f'{zlib.crc32(path.read_bytes()):08x}'


def to_record(
  name: str,
  crc32: str,
  answer: clients.Answer,
  read_ms: float,
  settings: Mapping[str, Any],
) -> dict[str, Any]:
  """What is written of a picture.

  Args:
    name: Of the file.
    crc32: Its `checksum`.
    answer: What came of it.
    read_ms: Milliseconds that reading took.
    settings: Of the run, see `run_settings`.
  """
  spent = {'read': read_ms, **answer.milliseconds}
  return {
    'file': name,
    'crc32': crc32,
    'caption': answer.caption,
    'bytes': answer.bytes,
    'codec': answer.codec,
    'layers': answer.layers,
    'tokens': answer.tokens,
    'min_entropy': round(answer.min_entropy, 3),
    'milliseconds': {stage: round(value, 3) for stage, value in spent.items()},
    'tries': answer.tries,
    'settings': dict(settings),
  }


def run_settings(
  client: clients.EdgeClient,
  agreed: rpc.SessionInfo,
  prompt: str = '',
  max_tokens: int = 0,
  limit: str = '',
) -> dict[str, Any]:
  """What the captions of a file have in common, besides the codec.

  Args:
    client: What makes them.
    agreed: What the server said.
    prompt: As of `caption`.
    max_tokens: As of `caption`.
    limit: As of `caption`.
  """
  layered = client.threshold is not None
  splits = {
    str(c.split) for c in client.codecs if isinstance(c, codecs.FeatureCodec)
  }
  return {
    'model': agreed.model,
    'encoder': agreed.encoder,
    'decoder': agreed.decoder,
    'prompt': prompt or agreed.prompt,
    'max_tokens': max_tokens or agreed.max_tokens,
    'seed': client.seed,
    'split': min(splits, default=None),
    'limit': limit or None,
    'threshold': client.threshold,
    'coarse': client.coarse if layered else None,
  }


def caption(
  client: clients.EdgeClient,
  files: Sequence[Path],
  root: Path,
  out: str | os.PathLike[str],
  size: int,
  *,
  prompt: str = '',
  max_tokens: int = 0,
  limit: str = '',
  progress: bool = True,
  report: Callable[[str], None] | None = None,
) -> RunSummary:
  """Captions files, a line each, and leaves out those that have one.

  A picture that cannot be read or sent is reported, and the others go on. An
  error of the server or the link, which the next picture would meet too, ends
  the run; started again, it goes on there.

  Args:
    client: What captions them.
    files: The picture files.
    root: Folder to which their names in `out` are relative.
    out: JSONL file to append to.
    size: Side of the model's pictures in pixels.
    prompt: As of `EdgeClient.caption`.
    max_tokens: As of `EdgeClient.caption`.
    limit: What the client's codecs were chosen by, if they were: captions in
      `out` by other codecs may then stay, if the same limit chose them.
    progress: Show a bar.
    report: Called with a line about each bad picture; by default it goes to
      the standard error.

  Returns:
    What became of them.

  Raises:
    RemoteError: The server cannot be used, or the prompt is too long for it.
    ValueError: `out` holds something else, or captions of other pictures of
      the same names, by another codec, with another prompt or other settings.
  """
  start = time.perf_counter()
  names = {path.relative_to(root).as_posix(): path for path in files}
  bad: dict[str, str] = {}
  captioned = total = 0
  with jsonl.JsonlWriter(out) as store:
    agreed = client.handshake(prompt=prompt, max_tokens=max_tokens, keep=True)
    settings = run_settings(client, agreed, prompt, max_tokens, limit)
    done = _done(store, client, settings, names)
    left = {n: path for n, path in names.items() if n not in done}
    if left:
      client.warm_up(min(_BATCH, client.window, len(left)))
    reading = _Reading(left, size, bad, report or _complain)
    bar = tqdm.tqdm(
      total=len(names),
      initial=len(names) - len(left),
      unit='picture',
      disable=not progress,
    )
    with bar:
      for answer in client.captions(iter(reading), prompt, max_tokens, _BATCH):
        name, crc32, read_ms = reading.order.popleft()
        if isinstance(answer, clients.Answer):
          store.append(to_record(name, crc32, answer, read_ms, settings))
          captioned += 1
          total += answer.bytes
        elif _its_own(answer):
          reading.refuse(name, str(answer))
        else:
          raise answer
        bar.update(captioned + len(bad) + len(names) - len(left) - bar.n)
      bar.update(captioned + len(bad) + len(names) - len(left) - bar.n)
  seconds = time.perf_counter() - start
  return RunSummary(captioned, len(names) - len(left), bad, total, seconds)


class _Reading:
  """Reads files as they are needed; remembers whose picture comes next."""

  def __init__(self, files, size, bad, report):
    self.order: collections.deque[tuple[str, str, float]]
    self.order = collections.deque()
    self._files = files
    self._size = size
    self._bad = bad
    self._report = report

  def __iter__(self) -> Iterator[tuple[Any, int]]:
    for name, path in self._files.items():
      start = time.perf_counter()
      try:
        crc32 = checksum(path)
        image = data.read_image(path, self._size)
      except (data.PictureError, OSError) as error:
        self.refuse(name, str(error))
        continue
      spent = 1000 * (time.perf_counter() - start)
      self.order.append((name, crc32, spent))
      yield image, picture_id(name)

  def refuse(self, name: str, why: str) -> None:
    """Counts a bad picture, and tells it."""
    self._bad[name] = why
    self._report(why if name in why else f'{name}: {why}')


def _complain(text: str) -> None:
  """Writes above the bar."""
  tqdm.tqdm.write(text, file=sys.stderr)


def _its_own(error: clients.Failure) -> bool:
  """Whether an error is the picture's, and not one that all would meet."""
  return isinstance(error, encode.TooLargeError) or error.code in _ITS_OWN


def _other(path: Path, crc32: Any) -> bool:
  """Whether a file is another than it was; not if it cannot be read now."""
  try:
    return checksum(path) != crc32
  except OSError:
    return False


def _done(
  store: jsonl.JsonlWriter[list[dict[str, Any]]],
  client: clients.EdgeClient,
  settings: Mapping[str, Any],
  files: Mapping[str, Path],
) -> set[str]:
  """The files that have a caption, which must have been made as others will."""
  names = [codec.name for codec in client.codecs]
  for number, found in enumerate(store.objects, 1):
    if not isinstance(found.get('file'), str) or 'caption' not in found:
      raise ValueError(
        f"{store.path}:{number}: expected the fields 'file' and 'caption';"
        ' is this a file of captions? choose another one'
      )
    there = found.get('settings')
    there = there if isinstance(there, dict) else {}
    apart = [
      f'{name} {there.get(name)!r}, now it is {value!r}'
      for name, value in settings.items()
      if there.get(name) != value
    ]
    # A limit may choose another codec when the link or the server is another.
    if settings['limit'] is None and found.get('codec') not in names:
      by = f'codec {found.get("codec")}, now it is {" or ".join(names)}'
      apart.insert(0, by)
    path = files.get(found['file'])
    if path is not None and _other(path, found.get('crc32')):
      raise ValueError(
        f'{store.path}:{number}: is of another picture of the name'
        f' {found["file"]!r} than {path}; choose another file for the captions'
      )
    if apart:
      raise ValueError(
        f'{store.path}:{number}: was made with {"; with ".join(apart)}; choose'
        ' another file, or the same settings'
      )
  return {found['file'] for found in store.objects}
