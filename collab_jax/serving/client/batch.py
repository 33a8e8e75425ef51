"""Captions many picture files into a JSONL file; a killed run is resumed."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import math
import os
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple
import zlib

import tqdm

from collab_jax import _precision, data, jsonl, masks, tasks
from collab_jax.data import pictures
from collab_jax.models import mask_decoder
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  rpc,
)
from collab_jax.serving.client import result as results

_BATCH = 8  # Pictures that are encoded at a time.

# Codes of errors that concern one picture, not the next one too.
_PER_PICTURE = ('INVALID_ARGUMENT', 'INTERNAL')

# Settings that files of earlier versions lack; nothing is known of those.
_ADDED = ('preprocess', 'edge', 'server')

# Method by which pictures are resized.
_METHOD = 'hf_bicubic'


class RunSummary(NamedTuple):
  """Counts of a run.

  Attributes:
    captioned: Number of pictures captioned by this run.
    resumed: Number of pictures captioned by earlier runs.
    failed: Errors of the other pictures, by file.
    bytes: Bytes of all messages of this run.
    seconds: Duration of the run.
    answers: Number of records that this run has added; with several questions
      one for each.
  """

  captioned: int
  resumed: int
  failed: dict[str, str]
  bytes: int
  seconds: float
  answers: int


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
  """Lists the picture files of a folder and its sub-folders, sorted.

  Args:
    folder: The folder.

  Returns:
    The files with one of `data.pictures.SUFFIXES`; a file that is named may
    have any. Hidden files and folders, whose names begin with a dot, are left
    out: a Mac's `._cat.jpg` is no picture.

  Raises:
    FileNotFoundError: The folder has no pictures.
  """
  folder = Path(folder)
  paths = sorted(
    path
    for path in folder.rglob('*')
    if path.suffix.lower() in pictures.SUFFIXES
    and not any(n.startswith('.') for n in path.relative_to(folder).parts)
    and path.is_file()
  )
  if not paths:
    raise FileNotFoundError(
      f'{folder} has no pictures: expected files that end in'
      f' {", ".join(pictures.SUFFIXES)}, and do not begin with a dot'
    )
  return paths


def picture_id(name: str) -> int:
  """Returns a picture's id, which depends on its file's name only."""
  return zlib.crc32(os.fsencode(name))


def file_crc32(path: Path) -> str:
  """Returns the CRC-32 of a picture file's content.

  Raises:
    FileNotFoundError: There is no such file.
    PictureError: It is no file, or cannot be read.
  """
  return f'{zlib.crc32(pictures.contents(path)):08x}'


def to_record(
  name: str,
  crc32: str,
  result: results.CaptionResult,
  read_ms: float,
  settings: Mapping[str, Any],
  session: str | None = None,
  size: tuple[int, int] | None = None,
  decoder: mask_decoder.Params | None = None,
) -> dict[str, Any]:
  """Returns the JSON record of a picture.

  Args:
    name: Name of the file.
    crc32: CRC-32 of its content.
    result: Its caption.
    read_ms: Milliseconds that reading took.
    settings: Settings of the run, from `run_settings`.
    session: Fingerprint of the codec's session, if known.
    size: Width and height of the file's picture; boxes of the caption, if it
      has some, are recorded in its pixels.
    decoder: Decoder of masks; None leaves them out.
  """
  entropy = result.min_entropy
  spent = {'read': read_ms, **result.milliseconds}
  return {
    'file': name,
    'crc32': crc32,
    'caption': result.caption,
    'bytes': result.bytes,
    'codec': result.codec,
    'layers': result.layers,
    'tokens': result.tokens,
    # JSON has no form for what is no number.
    'min_entropy': round(entropy, 3) if math.isfinite(entropy) else None,
    'milliseconds': {stage: round(value, 3) for stage, value in spent.items()},
    'tries': result.tries,
    'settings': dict(settings),
    **({} if session is None else {'session': session}),
    **({} if size is None else _boxes(result.caption, size, decoder)),
  }


def _boxes(
  caption: str, size: tuple[int, int], decoder: mask_decoder.Params | None
) -> dict[str, Any]:
  """Returns the fields of a caption that has boxes."""
  width, height = size
  parts = tasks.parse_answer(caption, height, width, decoder)
  if not parts.detections:
    return {}
  boxes: list[dict[str, Any]] = []
  for detection in parts.detections:
    boxes.append({'name': detection.name, 'box': [*detection.pixels]})
    if detection.mask is not None:
      boxes[-1]['mask'] = [*masks.encode(detection.mask)]
  return {'size': [width, height], 'boxes': boxes}


def run_settings(
  client: clients.EdgeClient,
  session: rpc.SessionInfo,
  prompt: str = '',
  max_tokens: int = 0,
  limit: str = '',
) -> dict[str, Any]:
  """Returns the settings that all captions of a file share, but for the codec.

  Args:
    client: The client.
    session: From a handshake.
    prompt: As in `caption`.
    max_tokens: As in `caption`.
    limit: As in `caption`.
  """
  layered = client.threshold is not None
  splits = {codec.split for codec in client.codecs if codec.split}
  dtypes = {c.model.compute_dtype for c in client.codecs if c.split}
  edge = _precision.describe('+'.join(sorted(dtypes))) if dtypes else {}
  return {
    'model': session.model,
    'encoder': session.encoder,
    'decoder': session.decoder,
    'prompt': prompt or session.prompt,
    'max_tokens': max_tokens or session.max_tokens,
    'seed': client.seed,
    'split': min(splits, default=None),
    'limit': limit or None,
    'threshold': client.threshold,
    'coarse': client.coarse if layered else None,
    'preprocess': _METHOD,
    # Numbers of the encoder, which runs here if features are sent.
    'edge': edge,
    'server': dict(session.computation),
  }


def caption(
  client: clients.EdgeClient,
  files: Sequence[Path],
  root: Path,
  out: str | os.PathLike[str],
  size: int,
  *,
  prompt: str = '',
  questions: Sequence[str] = (),
  max_tokens: int = 0,
  limit: str = '',
  progress: bool = True,
  report: Callable[[str], None] | None = None,
  decoder: mask_decoder.Params | None = None,
) -> RunSummary:
  """Captions files, a record each; skips those that have a record.

  With several questions a picture is encoded and sent once, and has a record
  for each; what is asked later about the same pictures may be added.

  A picture that cannot be read or sent is reported, and the others go on. An
  error of the server or the link, which the next picture would meet too, ends
  the run; started again, it resumes there.

  Args:
    client: The client.
    files: The picture files.
    root: Folder to which their names in `out` are relative.
    out: JSONL file to append to.
    size: Side of the model's pictures in pixels.
    prompt: As in `EdgeClient.caption`.
    questions: Several prompts, instead of `prompt`.
    max_tokens: As in `EdgeClient.caption`.
    limit: Limit by which the client's codecs were chosen, if any: captions in
      `out` by other codecs may then stay, if the same limit chose them.
    progress: Show a bar.
    report: Called with a line about each failed picture; by default it is
      written to standard error.
    decoder: Decoder of masks, for captions that have some; None leaves them
      out.

  Returns:
    Counts of the run.

  Raises:
    RemoteError: The server cannot be used, or the prompt is too long for it.
    ValueError: `out` holds something else, or captions of other pictures of
      the same names, by another codec, with another prompt or other settings.
  """
  start = time.perf_counter()
  names = {path.relative_to(root).as_posix(): path for path in files}
  failed: dict[str, str] = {}
  with jsonl.JsonlWriter(out, _parse_captions) as writer:
    settings = _agree(client, questions or [prompt], max_tokens, limit)
    pending = _pending(
      _resume(writer, client, settings, names), settings, names
    )
    resumed = len(names) - sum(map(len, pending.values()))
    if resumed < len(names):
      client.warm_up(min(_BATCH, client.window, len(names) - resumed))
    run = _BatchRun(writer, client, settings, max_tokens, decoder)
    bar = tqdm.tqdm(
      total=len(names),
      initial=resumed,
      unit='picture',
      disable=not progress,
    )
    with bar:
      for prompts, paths in pending.items():
        reader = _FileReader(paths, size, failed, report or _write_above_bar)
        for _ in run.ask(reader, prompts):
          bar.update(resumed + run.captioned + len(failed) - bar.n)
      bar.update(resumed + run.captioned + len(failed) - bar.n)
  seconds = time.perf_counter() - start
  return RunSummary(
    run.captioned, resumed, failed, run.bytes, seconds, run.answers
  )


def _agree(
  client: clients.EdgeClient,
  questions: Sequence[str],
  max_tokens: int,
  limit: str,
) -> dict[str, dict[str, Any]]:
  """Returns the settings of each prompt, which the server has accepted."""
  settings = {}
  for number, question in enumerate(questions):
    session = client.handshake(
      prompt=question, max_tokens=max_tokens, keep=not number
    )
    of_prompt = run_settings(client, session, question, max_tokens, limit)
    settings[of_prompt['prompt']] = of_prompt
  return settings


def _pending(
  done: set[tuple[str, str]], prompts: Iterable[str], files: Mapping[str, Path]
) -> dict[tuple[str, ...], dict[str, Path]]:
  """Returns the files that lack records, by the prompts that are missing."""
  pending: dict[tuple[str, ...], dict[str, Path]] = {}
  for name, path in files.items():
    missing = tuple(p for p in prompts if (name, p) not in done)
    if missing:
      pending.setdefault(missing, {})[name] = path
  return pending


class _BatchRun:
  """Run that appends records of pictures, and counts them."""

  def __init__(self, writer, client, settings, max_tokens, decoder):
    self.captioned = self.answers = self.bytes = 0
    self._writer = writer
    self._client = client
    self._settings = settings
    self._sessions = _sessions(client)
    self._max_tokens = max_tokens
    self._decoder = decoder

  def ask(
    self, reader: '_FileReader', prompts: Sequence[str]
  ) -> Iterator[None]:
    """Asks the prompts about all files, and yields after each picture."""
    for outcome in self._outcomes(reader, prompts):
      file = reader.order.popleft()
      if isinstance(outcome, list):
        self._append(file, prompts, outcome)
      elif _is_per_picture(outcome):
        reader.fail(file.name, str(outcome))
      else:
        raise outcome
      yield

  def _outcomes(
    self, reader: '_FileReader', prompts: Sequence[str]
  ) -> Iterator[list[results.CaptionResult] | clients.Failure]:
    """Yields the answers about each picture, or an error."""
    if len(prompts) > 1:
      yield from self._client.answers(
        iter(reader), prompts, self._max_tokens, _BATCH
      )
      return
    for outcome in self._client.captions(
      iter(reader), prompts[0], self._max_tokens, _BATCH
    ):
      is_caption = isinstance(outcome, results.CaptionResult)
      yield [outcome] if is_caption else outcome

  def _append(
    self,
    file: '_ReadFile',
    prompts: Sequence[str],
    answers: Sequence[results.CaptionResult],
  ) -> None:
    """Appends the records of a picture."""
    records = [
      to_record(
        file.name,
        file.crc32,
        answer,
        0.0 if number else file.read_ms,
        self._settings[prompt],
        self._sessions[answer.codec],
        file.size,
        self._decoder,
      )
      for number, (prompt, answer) in enumerate(
        zip(prompts, answers, strict=True)
      )
    ]
    self._writer.append(*records)
    self.captioned += 1
    self.answers += len(records)
    self.bytes += sum(answer.bytes for answer in answers)


def _parse_captions(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
  """Parses the records of a file of captions."""
  try:
    return jsonl.parse_objects(path, lines)
  except ValueError as error:
    raise ValueError(
      f'{error}; is this a file of captions? choose another one'
    ) from error


class _ReadFile(NamedTuple):
  """File of a picture: its name, checksum, width and height, and its time."""

  name: str
  crc32: str
  size: tuple[int, int]
  read_ms: float


class _FileReader:
  """Reads files as they are needed; `order` has those in flight, in order."""

  def __init__(self, files, size, failed, report):
    self.order: collections.deque[_ReadFile]
    self.order = collections.deque()
    self._files = files
    self._size = size
    self._failed = failed
    self._report = report

  def __iter__(self) -> Iterator[tuple[Any, int]]:
    for name, path in self._files.items():
      start = time.perf_counter()
      try:
        content = pictures.contents(path)
        crc32 = f'{zlib.crc32(content):08x}'
        decoded = pictures.decode(content, str(path))
        image = pictures.resize(decoded, self._size, _METHOD)
      except (data.PictureError, OSError) as error:
        self.fail(name, str(error))
        continue
      spent = 1000 * (time.perf_counter() - start)
      height, width, _ = decoded.shape
      self.order.append(_ReadFile(name, crc32, (width, height), spent))
      yield image, picture_id(name)

  def fail(self, name: str, reason: str) -> None:
    """Counts and reports a failed picture."""
    self._failed[name] = reason
    self._report(reason if name in reason else f'{name}: {reason}')


def _write_above_bar(text: str) -> None:
  tqdm.tqdm.write(text, file=sys.stderr)


def _is_per_picture(error: clients.Failure) -> bool:
  """Returns whether an error concerns one picture only."""
  return isinstance(error, encode.TooLargeError) or error.code in _PER_PICTURE


def _has_changed(path: Path, crc32: Any) -> bool:
  """Returns whether a file's content has changed; not if it is unreadable."""
  try:
    return file_crc32(path) != crc32
  except (OSError, data.PictureError):
    return False


def _sessions(client: clients.EdgeClient) -> dict[str, str]:
  """Returns the fingerprints of what codecs agree on, by the codecs' names."""
  return {codec.name: codec.digest.hex()[:16] for codec in client.codecs}


def _differences(
  before: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
  """Returns a text for each setting that a record was made with otherwise."""
  lines = []
  for name, value in settings.items():
    # Fingerprints decide, where there are any, and no names.
    if name == 'model' and before.get('decoder'):
      continue
    if name in _ADDED and not before.get(name):
      continue
    earlier = before.get(name)
    if isinstance(value, dict) and isinstance(earlier, dict):
      # A server of an earlier version says nothing.
      lines += [
        f'{name}.{field} {earlier.get(field)!r}, now it is {value.get(field)!r}'
        for field in sorted(value.keys() | earlier.keys())
        if value and earlier.get(field) != value.get(field)
      ]
    elif earlier != value:
      lines.append(f'{name} {earlier!r}, now it is {value!r}')
  return lines


def _codec_differences(
  record: Mapping[str, Any], sessions: Mapping[str, str]
) -> list[str]:
  """Returns a text if a record was made by none of the codecs.

  The sessions decide, which have fingerprints of books: these may have moved.
  """
  codec, session = str(record.get('codec')), record.get('session')
  names = ' or '.join(sessions)
  if session is None:
    known = codec in sessions
    return [] if known else [f'codec {codec}, now it is {names}']
  if session in sessions.values():
    return []
  if codec not in sessions:
    return [f'codec {codec}, now it is {names}']
  return [f'session {session} of {codec}, now it is {sessions[codec]}']


def _resume(
  writer: jsonl.JsonlWriter[list[dict[str, Any]]],
  client: clients.EdgeClient,
  settings: Mapping[str, Mapping[str, Any]],
  files: Mapping[str, Path],
) -> set[tuple[str, str]]:
  """Returns files and prompts of records, after checking their settings.

  Args:
    writer: The file of records.
    client: The client.
    settings: Those of each prompt.
    files: Pictures by name.
  """
  sessions, done = _sessions(client), set()
  first = next(iter(settings.values()))
  other = {**first, 'prompt': ' or '.join(settings)}
  has_changed = functools.cache(_has_changed)
  for number, record in enumerate(writer.objects, 1):
    if not isinstance(record.get('file'), str) or 'caption' not in record:
      raise ValueError(
        f"{writer.path}:{number}: expected the fields 'file' and 'caption';"
        ' is this a file of captions? choose another one'
      )
    before = record.get('settings')
    before = before if isinstance(before, dict) else {}
    prompt = str(before.get('prompt'))
    differences = _differences(before, settings.get(prompt, other))
    # A limit may choose another codec when the link or the server is another.
    if first['limit'] is None:
      differences = _codec_differences(record, sessions) + differences
    path = files.get(record['file'])
    if path is not None and has_changed(path, record.get('crc32')):
      raise ValueError(
        f'{writer.path}:{number}: is of another picture of the name'
        f' {record["file"]!r} than {path}; choose another file for the captions'
      )
    if differences:
      raise ValueError(
        f'{writer.path}:{number}: was made with {"; with ".join(differences)};'
        ' choose another file, or the same settings'
      )
    done.add((record['file'], prompt))
  return done
