r"""Captions pictures by a server; this machine encodes them.

collab-jax caption cat.png --k=8 --stream
collab-jax caption cat.png --prompt='detect cat' --prompt='answer en how many'
collab-jax caption --server=localhost:50051 photos --out=captions.jsonl \
    --codec='merge(k=5,smooth=2,centroids=pca(dims=128,vectors=ecsq))'
collab-jax caption --server=edge.example.org:443 --ca=system \
    --token_file=token photos --out=captions.jsonl --max_bytes=60
collab-jax caption cat.png --task=counts --prompt='answer en how many cats'
collab-jax caption photos --prompt='caption en' --prompt='detect cat'

A folder is captioned into a JSONL file; started again, it resumes. See
docs/edge.md.
"""

from collections.abc import Callable
from pathlib import Path
import sys
from typing import Any

from absl import app, flags

from collab_jax import (
  _terminal,
  checkpoints,
  launcher,
  tasks,
)
from collab_jax.commands import (
  codec_flags,
  connection_flags,
  dtype_flags,
  edge_model,
  mask_flags,
  model_flags,
)
from collab_jax.data import pictures
from collab_jax.models import tokenizer
from collab_jax.serving.client import (
  batch,
  rate_control,
)
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import result as results

_CONNECTION = connection_flags.define()
_CHOICE = codec_flags.define()
_MODEL = model_flags.define()
_DTYPES = dtype_flags.define()
_MASKS = mask_flags.define()
_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  [],
  "Instead of the server's; given several times, questions about each picture,"
  ' which is sent once.',
)
_TOKENS = flags.DEFINE_integer(
  'max_tokens', 0, "Longest caption; 0 for the server's.", lower_bound=0
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the quantizers.')
_STREAM = flags.DEFINE_bool('stream', False, 'Print the caption word by word.')
_OUT = flags.DEFINE_string(
  'out', '', 'JSONL file to write; for a folder by default captions.jsonl.'
)
_WINDOW = flags.DEFINE_integer(
  'window', 16, 'Requests in flight at a time.', lower_bound=1
)
_MAX_BYTES = flags.DEFINE_integer(
  'max_bytes', 0, 'Instead of a codec: the longest message.', lower_bound=0
)
_GOAL = flags.DEFINE_float(
  'goal_ms',
  0.0,
  'Instead of a codec: milliseconds from a picture to its caption; the uplink'
  ' is measured.',
  lower_bound=0.0,
)
_TASK = flags.DEFINE_string(
  'task',
  '',
  "Instead of a codec: what is asked, a task of the rate curve ('counts')."
  ' Alone it takes the codec of fewest bytes that keeps 95% of the score, with'
  ' max_bytes or goal_ms the best one that fits.',
)
_CURVE = flags.DEFINE_string(
  'curve', '', "Rate curve to choose by, instead of the model's own."
)
_PROGRESSIVE = flags.DEFINE_bool(
  'progressive',
  False,
  'Send the first layers of a message, the others if the server is unsure.',
)
_COARSE = flags.DEFINE_integer(
  'coarse',
  rate_control.COARSE,
  'Number of layers that go first.',
  lower_bound=1,
)
_THRESHOLD = flags.DEFINE_float(
  'threshold',
  rate_control.THRESHOLD,
  'Bits of min-entropy above which it is unsure.',
  lower_bound=0.0,
)


_NO_BOX = (
  'the answer has no whole box; not every model was trained to find things'
)


def main(argv):
  """Captions a picture or a folder; returns 1 if some pictures were bad."""
  if len(argv) != 2:
    raise app.UsageError(
      f'got {len(argv) - 1} paths {argv[1:]}, expected one picture or folder'
    )
  path = Path(argv[1])
  is_folder = path.is_dir()
  with launcher.runtime(_DTYPES.precision.value, resumes=is_folder):
    if not (path.is_file() or is_folder):
      raise FileNotFoundError(f'no such picture or folder: {path}')
    if _STREAM.value and (is_folder or _PROGRESSIVE.value or _OUT.value):
      raise ValueError(
        'stream: prints the caption of one picture, all of whose layers are'
        ' sent; leave it out, or folder, out and progressive'
      )
    if len(_PROMPT.value) > 1 and (_STREAM.value or _PROGRESSIVE.value):
      raise ValueError(
        f'prompt: got {len(_PROMPT.value)}, expected one with stream or'
        ' progressive; leave these out to ask several'
      )
    files = batch.list_pictures(path) if is_folder else [path]
    with _client() as client:
      size = client.codecs[0].model.config.vision.image_size
      if is_folder or _OUT.value:
        root = path if is_folder else path.parent
        return _caption_all(client, files, root, size)
      return _caption_one(client, path, size)


def _client() -> clients.EdgeClient:
  """Makes the client from the flags."""
  limits, names = _limits(), _CHOICE.given
  if len(limits) > 1 or (limits and (names or _CHOICE.codec.value)):
    raise ValueError(
      f'{limits[0]}: chooses the codec; leave it out, or quantizer, k, codec'
      ' and the other limit'
    )
  if _TASK.value and (names or _CHOICE.codec.value):
    raise ValueError(
      'task: chooses the codec; leave it out, or quantizer, k and codec'
    )
  settings: dict[str, Any] = {'window': _WINDOW.value, 'seed': _SEED.value}
  if _PROGRESSIVE.value:
    settings |= {'threshold': _THRESHOLD.value, 'coarse': _COARSE.value}
  if not limits and not _TASK.value:
    if _CURVE.value:
      raise ValueError(
        'curve: is given without task, max_bytes or goal_ms, by which a codec'
        ' of it is chosen; give one of them'
      )
    chosen = _CHOICE.choose(
      rate_control.PROGRESSIVE if _PROGRESSIVE.value else ''
    )
    edge = edge_model.EdgeModel(*_MODEL.source, **_DTYPES.arguments)
    return clients.EdgeClient(
      _CONNECTION.connect(), edge.bind(chosen), **settings
    )
  return _client_of_curve(settings)


def _client_of_curve(settings: dict[str, Any]) -> clients.EdgeClient:
  """Makes the client whose codecs a rate curve chooses."""
  curve = _curve()
  edge = edge_model.EdgeModel(
    *_MODEL.source, curve.split, curve.coding, **_DTYPES.arguments
  )
  if not _limits():
    curve.keeping()  # Said before a server is asked.
    return rate_control.client_for_share(
      _CONNECTION.connect(), curve, edge.bind, **settings
    )
  connection, max_bytes = _CONNECTION.connect(), _MAX_BYTES.value
  if _GOAL.value:
    plan = rate_control.plan(connection, curve, edge.bind, _GOAL.value)
    max_bytes = plan.max_bytes
    print(_describe(plan), file=sys.stderr)
  return rate_control.client_for_budget(
    connection, curve, edge.bind, max_bytes, **settings
  )


def _limits() -> list[str]:
  """Returns the flags of limits that were given."""
  return [n for n in ('max_bytes', 'goal_ms') if flags.FLAGS[n].value]


def _limit() -> str:
  """Returns what codecs are chosen by; '' for a named codec."""
  names = _limits()
  texts = [f'{name}={flags.FLAGS[name].value:g}' for name in names]
  if _TASK.value:
    texts.append(f'task={_TASK.value}')
  if texts and _CURVE.value:
    texts.append(f'curve={_CURVE.value}')
  return ' '.join(texts)


def _curve() -> rate_control.RateCurve:
  """Returns the rate curve of the task, of the file or of the model."""
  model = checkpoints.config_of(*_MODEL.source).name
  if not _CURVE.value:
    return rate_control.shipped_curve(model, _TASK.value)
  curve = rate_control.read_curve(_CURVE.value, _TASK.value)
  if curve.model != model:
    of_curve, here = (_terminal.escape(str(n)) for n in (curve.model, model))
    print(
      f'curve: {_CURVE.value} is of the model {of_curve}, this is {here}: bytes'
      ' and scores may be others',
      file=sys.stderr,
    )
  return curve


def _describe(plan: rate_control.RateControlPlan) -> str:
  missed = '' if plan.met else ', which is too much: the goal is missed'
  return (
    f'uplink {plan.link.kbps:,.0f} kbps; {plan.link.delay_ms:.1f} ms of the'
    f' link and {plan.compute_ms:.1f} ms of computing whatever is'
    f' sent{missed}; messages of at most {plan.max_bytes:,} bytes'
  )


def _caption_one(client: clients.EdgeClient, path: Path, size: int) -> int:
  decoder = _MASKS.load()
  decoded = pictures.decode(pictures.contents(path), str(path))
  image = pictures.resize(decoded, size)
  height, width, _ = decoded.shape

  def print_boxes(prompt: str, text: str) -> None:
    parts = tasks.parse_answer(text, height, width, decoder)
    if not parts.detections and tokenizer.asks_for_places(prompt):
      print(f'  {_NO_BOX}', file=sys.stderr)
    for detection in parts.detections:
      print(f'  {_in_words(detection, width, height)}')

  image_id = batch.picture_id(path.name)
  prompt, max_tokens = _prompt(), _TOKENS.value
  client.warm_up()
  if len(_PROMPT.value) > 1:
    return _ask(client, image, image_id, print_boxes)
  if _STREAM.value:
    result = None
    for item in client.stream(image, prompt, image_id, max_tokens):
      if isinstance(item, str):
        print(_terminal.escape(item), end='', flush=True)
      else:
        result = item
    print()
    assert result is not None  # A stream ends with it.
  else:
    result = client.caption(image[None], prompt, [image_id], max_tokens)[0]
    print(_terminal.escape(result.caption))
  print_boxes(prompt, result.caption)
  _print_costs(result)
  return 0


def _prompt() -> str:
  """Returns the prompt of all pictures; '' for the server's."""
  return _PROMPT.value[0] if _PROMPT.value else ''


def _in_words(detection: tasks.Detection, width: int, height: int) -> str:
  """Returns a box, and its mask if it is known, on one line."""
  text = _terminal.escape(detection.describe())
  text = f'{text} of {width} x {height} pixels'
  if detection.mask is not None:
    return f'{text}; mask of {int(detection.mask.sum()):,} pixels'
  return f'{text}; mask: give --mask_weights' if detection.has_codes else text


def _ask(
  client: clients.EdgeClient,
  image: Any,
  image_id: int,
  print_boxes: Callable[[str, str], None],
) -> int:
  """Asks several questions about one picture."""
  answers = client.ask(image, _PROMPT.value, image_id, _TOKENS.value)
  for prompt, answer in zip(_PROMPT.value, answers, strict=True):
    print(f'{_terminal.escape(prompt)}: {_terminal.escape(answer.caption)}')
    print_boxes(prompt, answer.caption)
  _print_costs(answers[0])
  more = sum(answer.bytes for answer in answers[1:])
  print(
    f'  the other {len(answers) - 1}: {more:,} bytes of messages',
    file=sys.stderr,
  )
  return 0


def _print_costs(result: results.CaptionResult) -> None:
  """Prints codec, bytes and times of a caption."""
  fields = ', '.join(f'{f} {n:,}' for f, n in result.sizes.items())
  spent = result.milliseconds
  stages = ', '.join(f'{s} {ms:.1f}' for s, ms in spent.items())
  print(
    f'  codec  {result.codec}\n'
    f'  bytes  {result.bytes:,} ({fields})\n'
    f'  ms     {sum(spent.values()):.1f} ({stages})',
    file=sys.stderr,
  )


def _caption_all(client, files, root: Path, size: int) -> int:
  out = _OUT.value or 'captions.jsonl'
  decoder = _MASKS.load()
  summary = batch.caption(
    client,
    files,
    root,
    out,
    size,
    questions=_PROMPT.value,
    max_tokens=_TOKENS.value,
    limit=_limit(),
    decoder=decoder,
  )
  rate = summary.captioned / max(summary.seconds, 1e-9)
  mean = summary.bytes / max(summary.captioned, 1)
  done = f'{summary.captioned:,} captions'
  if len(_PROMPT.value) > 1:
    done = f'{summary.answers:,} answers about {summary.captioned:,} pictures'
  print(
    f'{out}: {done}, {summary.resumed:,} were there,'
    f' {len(summary.failed):,} bad pictures;'
    f' {mean:,.1f} bytes a picture, {rate:,.1f} pictures a second'
  )
  return 1 if summary.failed else 0
