r"""Times all selectors on edge and server, beside all vectors and pictures.

python -m benchmarks.selector_times --out=tiny.json
python -m benchmarks.selector_times --model=paligemma-3b-pt-224 --rounds=7
python -m benchmarks.selector_times --selectors='merge;pool' --k=8 --rounds=3

One picture at a time, as an edge has it. Edge: image encoder, quantizer, and
packing into the message. Server: unpacking and rebuilding, prefill, and the
other tokens of a caption. Every program is run once before, to compile it, then
all of them in turn, once a round, each round on another scene; figures are
medians of the rounds. Programs that selectors share are timed once: the
encoder, prefill and decoding by the length of their prefix.

A selector goes on in up to two forms: 'grid', the server puts a vector in each
place of the grid, and 'keep', it passes on the sent vectors alone, for a
shorter prefill. A released model's name stands for its dimensions with random
weights. `--page` writes the tables between the marks of a page.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import os
from pathlib import Path
import statistics
import time
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np
import tqdm

from benchmarks import (
  costs,
  device_rates,
  flag_names,
  models,
  selector_tables,
)
from collab_jax import captioner as captioning
from collab_jax import channels, codecs, launcher, provenance, quantizers
from collab_jax.codecs import encoder
from collab_jax.evaluation.report import labels
from collab_jax.evaluation.report import settings as settings_lib
from collab_jax.models import paligemma, zoo
from collab_jax.quantizers.math import geometry
from configs import baselines

_COMPARED: Any = baselines.get_config().methods
# Those of the comparison, and those that it has no columns for.
SELECTORS: tuple[str, ...] = (*_COMPARED, 'adaptive', 'resized')
KS = (8, 32, 64, 256)
PICTURES = ('jpeg(quality=50,strip=true)', 'avif(quality=50,strip=true)')
# Names of quantizers that change the numbers of all vectors, and select none.
NO_SELECTORS = (
  *('identity', 'pca', 'scalar', 'ecsq', 'ecvq', 'fsq'),
  *('residual_vq', 'product_vq', 'shared_vq'),
)

_PROMPT = (2, 18910, 659, 573, 108)  # 'caption en' of a released tokenizer.

Key = tuple[Any, ...]


class Candidate(NamedTuple):
  """Codec to time.

  Attributes:
    selector: Label of the selector, the same for all k and forms.
    k: Number of vectors sent; None of pictures.
    form: 'all' vectors, a 'picture', or a selector's 'grid' or 'keep'.
    codec: The codec.
  """

  selector: str
  k: int | None
  form: str
  codec: codecs.Codec


class Refusal(NamedTuple):
  """Selector that does not send k vectors.

  Attributes:
    selector: Its label, or its name where no k makes one.
    k: Number of vectors.
    why: The error.
  """

  selector: str
  k: int
  why: str


@dataclasses.dataclass(frozen=True)
class Timed:
  """Candidate with the keys of the programs that it runs.

  Attributes:
    candidate: The candidate.
    encode: Key of the edge's encoder; None where the server has it.
    quantize: Key of the quantizer, or of the picture's file.
    pack: Key of the packing; None for pictures.
    rebuild: Key of unpacking and rebuilding.
    vectors: Length of the prefix in vectors, those of the padding among them.
    size: Bytes of a message, the mean.
  """

  candidate: Candidate
  encode: Key | None
  quantize: Key
  pack: Key | None
  rebuild: Key
  vectors: int
  size: float


def forms(quantizer: quantizers.Quantizer) -> dict[str, quantizers.Quantizer]:
  """Returns a selector's ways to rebuild: 'grid', and 'keep' if there is one.

  Args:
    quantizer: Selector of any way.
  """
  if isinstance(quantizer, quantizers.PositionMean):
    inner = forms(quantizers.as_quantizer(quantizer.vectors))
    return {
      form: dataclasses.replace(quantizer, vectors=vectors)
      for form, vectors in inner.items()
    }
  if not hasattr(quantizer, 'rebuild'):
    return {'grid': quantizer}
  selects = isinstance(quantizer, quantizers.Selection)
  changed: Any = quantizer
  return {
    'grid': dataclasses.replace(
      changed, rebuild='nearest' if selects else 'grid'
    ),
    'keep': dataclasses.replace(changed, rebuild='keep'),
  }


def label(codec: codecs.Codec) -> str:
  """Returns a selector's label, without its k, its form and its book."""
  plain = codec.settings
  for field in ('rebuild', 'book'):
    plain = settings_lib.without(plain, field)
  return labels.label({'codec': codec.describe(), 'settings': plain})


def _with_random_books(quantizer: Any) -> Any:
  """Returns a quantizer whose parameters are drawn, at any depth."""
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(quantizer):
    value = getattr(quantizer, field.name)
    if field.name == 'book' and value:
      changes['book'] = quantizers.pretrained.RANDOM
    elif dataclasses.is_dataclass(value):
      changes[field.name] = _with_random_books(value)
  return dataclasses.replace(quantizer, **changes)


def bind(
  model: paligemma.Model, quantizer: quantizers.Quantizer
) -> codecs.FeatureCodec:
  """Binds a quantizer, with drawn parameters where none are of this model."""
  try:
    return codecs.FeatureCodec(model, quantizer)
  except quantizers.QuantizerParamsError:
    return codecs.FeatureCodec(model, _with_random_books(quantizer))


def candidates(
  model: paligemma.Model, selectors: Sequence[str], ks: Sequence[int]
) -> Iterator[Candidate | Refusal]:
  """Yields the codecs of selectors, in both forms, and those there are not.

  Args:
    model: The model.
    selectors: Quantizers without their k, as `codecs.make_method` reads them.
    ks: Numbers of vectors.
  """
  seen = set()
  for text in selectors:
    for k in ks:
      try:
        made = forms(codecs.make_method(text, k))
        bound = {form: bind(model, each) for form, each in made.items()}
      except ValueError as error:
        yield Refusal(text, k, str(error))
        continue
      title = label(bound['grid'])
      for form, codec in bound.items():
        if (title, k, form) not in seen:  # Two may differ in their form alone.
          seen.add((title, k, form))
          yield Candidate(title, k, form, codec)


class Programs:
  """Programs of edge and server, each compiled by a first run.

  Attributes:
    timed: Candidates with the keys of their programs.
    calls: Programs by key; each takes the number of a picture.
  """

  def __init__(self, model: paligemma.Model, images: np.ndarray, tokens: int):
    """Encodes the pictures.

    Args:
      model: The model.
      images: Pictures u8[B H W 3].
      tokens: Tokens of a caption, at least 2.
    """
    self.timed: list[Timed] = []
    self.calls: dict[Key, Callable[[int], Any]] = {}
    self._model, self._tokens = model, tokens
    self._images = [image[None] for image in images]
    self._key = jax.random.key(0)
    self._observed: dict[Key, list[Any]] = {}
    self._messages: dict[Key, list[Any]] = {}
    tokenizer = model.tokenizer
    prompt = tokenizer.prompt('caption en') if tokenizer else _PROMPT
    prompt = np.asarray([prompt], np.int32)
    self.prompt_tokens = prompt.shape[1]
    self._generate = jax.jit(
      lambda model, x, n: model.generate(x, prompt, prompt > 0, n, eos=-1),
      static_argnums=2,
    )

  def add(self, candidate: Candidate) -> None:
    """Adds a candidate's programs, as far as others do not have them."""
    if isinstance(candidate.codec, codecs.FeatureCodec):
      self._add_features(candidate, candidate.codec)
    else:
      self._add_picture(candidate)

  def add_prefill(self, vectors: int) -> None:
    """Adds the prefill of so many vectors, without the other tokens."""
    self._register(('prefill', vectors), lambda i: self._write(vectors, 1))

  def add_distances(self, codec: codecs.FeatureCodec) -> None:
    """Adds the distances of all pairs of vectors, which most selectors need."""
    _, observed = self._observe(codec)
    distances = jax.jit(jax.vmap(geometry.distances))
    self._register(('distances',), lambda i: distances(observed[i][0]))

  def run(self, rounds: int) -> dict[Key, list[float]]:
    """Returns the seconds of each program in each of the rounds."""
    seconds: dict[Key, list[float]] = {key: [] for key in self.calls}
    for number in tqdm.trange(rounds, desc='timed', unit='round'):
      for key, call in self.calls.items():
        start = time.perf_counter()
        jax.block_until_ready(call(number % len(self._images)))
        seconds[key].append(time.perf_counter() - start)
    return seconds

  def _register(self, key: Key, call: Callable[[int], Any]) -> Any:
    """Adds a program and compiles it; returns its result of a picture."""
    self.calls[key] = call
    return jax.block_until_ready(call(0))

  def _register_all(self, key: Key, call: Callable[[int], Any]) -> list[Any]:
    """Adds a program and returns its results of all pictures."""
    self.calls[key] = call
    return [jax.block_until_ready(call(i)) for i in range(len(self._images))]

  def _observe(self, codec: codecs.FeatureCodec) -> tuple[Key, list[Any]]:
    key = 'encode', *codec.quantizer.aux_inputs
    if key not in self._observed:
      self._observed[key] = self._register_all(
        key, lambda i: codec.observe(self._images[i])
      )
    return key, self._observed[key]

  def _add_features(
    self, candidate: Candidate, codec: codecs.FeatureCodec
  ) -> None:
    encode, observed = self._observe(codec)
    sender = quantizers.name(codec.quantizer.sender)
    quantize, pack = ('quantize', sender), ('pack', sender)
    if quantize not in self._messages:
      self._messages[quantize] = self._register_all(
        quantize,
        lambda i: codec.quantize(
          observed[i][0], self._key, [i], observed[i][1]
        ),
      )
    arrays = self._messages[quantize]
    # Codecs of one sender have the same message, but not the same header.
    packets = [codec.pack(message) for message in arrays]
    if pack not in self.calls:
      self._register(pack, lambda i: codec.pack(arrays[i]))
    self._add_server(candidate, encode, quantize, pack, packets)

  def _add_picture(self, candidate: Candidate) -> None:
    codec = candidate.codec
    key = 'file', codec.name
    packets = self._register_all(
      key, lambda i: codec.encode(self._images[i], self._key)
    )
    self._add_server(candidate, None, key, None, packets)

  def _add_server(self, candidate, encode, quantize, pack, packets) -> None:
    codec = candidate.codec
    rebuild = 'rebuild', codec.name
    prefix = self._register(rebuild, lambda i: codec.decode(packets[i]))
    vectors = prefix.x.shape[1]
    vectors += captioning.padding(vectors)
    if ('prefill', vectors) not in self.calls:
      self.add_prefill(vectors)
    if ('caption', vectors) not in self.calls:
      self._register(
        ('caption', vectors), lambda i: self._write(vectors, self._tokens)
      )
    size = statistics.mean(len(message) for (message,) in packets)
    self.timed.append(
      Timed(candidate, encode, quantize, pack, rebuild, vectors, size)
    )

  def _write(self, vectors: int, tokens: int) -> jax.Array:
    return self._generate(self._model, self._prefix(vectors), tokens)

  def _prefix(self, vectors: int) -> jax.Array:
    """Returns a prefix of that length, of one picture's vectors."""
    key = 'prefix', vectors
    if key not in self._observed:
      features = encoder.features(self._model, 'head', self._images[0])
      index = np.arange(vectors) % features.shape[1]
      self._observed[key] = [features[:, index]]
    return self._observed[key][0]


def _itemsize(dtypes: str) -> int:
  """Returns the bytes of a number, of the first dtype of some."""
  return jnp.dtype(dtypes.partition('+')[0]).itemsize


def _median(seconds: Sequence[float]) -> float:
  return 1e3 * statistics.median(seconds)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
  """Returns the median and the quartiles, in milliseconds."""
  low, _, high = np.percentile(np.asarray(seconds), [25, 50, 75])
  return {'ms': _median(seconds), 'low': 1e3 * low, 'high': 1e3 * high}


def _decode(seconds: dict[Key, list[float]], vectors: int) -> list[float]:
  """Returns the seconds of a caption's tokens but the first, by round."""
  firsts, wholes = seconds['prefill', vectors], seconds['caption', vectors]
  return [b - a for a, b in zip(firsts, wholes, strict=True)]


def rows(
  timed: Sequence[Timed],
  seconds: dict[Key, list[float]],
  uplink: float,
  budget: channels.Budget,
) -> list[dict[str, Any]]:
  """Composes each candidate's milliseconds and joules of its programs.

  Args:
    timed: Candidates; that of all vectors among them.
    seconds: Seconds of programs by key.
    uplink: Rate of the uplink in bits per second.
    budget: Powers and speeds.

  Returns:
    A row for each: parts, 'edge_ms' and 'server_ms', which are their sums,
    'total_ms', the sum of both, its 'ratio' to that of all vectors, 'link_ms'
    and 'joules'.
  """
  link = channels.RateLimited(uplink)
  made = []
  for each in timed:
    parts = {
      name: 0.0 if key is None else _median(seconds[key])
      for name, key in (
        ('encode', each.encode),
        ('quantize', each.quantize),
        ('pack', each.pack),
        ('rebuild', each.rebuild),
        ('prefill', ('prefill', each.vectors)),
      )
    }
    parts['decode'] = _median(_decode(seconds, each.vectors))
    edge = parts['encode'] + parts['quantize'] + parts['pack']
    server = parts['rebuild'] + parts['prefill'] + parts['decode']
    airtime = link.airtime(each.size)
    cost = budget.cost(edge / 1e3, airtime, airtime, server / 1e3)
    spread = _spread(seconds[each.quantize])
    candidate = each.candidate
    made.append(
      {
        'selector': candidate.selector,
        'name': candidate.codec.name,
        'k': candidate.k,
        'form': candidate.form,
        'vectors': each.vectors,
        'bytes': each.size,
        **{f'{name}_ms': value for name, value in parts.items()},
        'quantize_low': spread['low'],
        'quantize_high': spread['high'],
        'edge_ms': edge,
        'server_ms': server,
        'total_ms': edge + server,
        'link_ms': 1e3 * cost.link,
        'joules': cost.joules,
      }
    )
  full = next(row for row in made if row['form'] == 'all')
  for row in made:
    row['ratio'] = row['total_ms'] / full['total_ms']
  return made


def parts(
  model: paligemma.Model,
  seconds: dict[Key, list[float]],
  rates: dict[str, float],
  prompt_tokens: int,
  tokens: int,
) -> list[dict[str, Any]]:
  """Returns the programs that selectors share, beside the device's limits.

  Args:
    model: The model.
    seconds: Seconds of programs by key.
    rates: 'products', operations a second in the dtype of the products,
      'float32', those of float32, and 'bandwidth', bytes a second.
    prompt_tokens: Tokens of the prompt.
    tokens: Tokens of a caption.

  Returns:
    'part', 'vectors', 'ms', 'low', 'high', 'limit_ms', the time that the
    operations or the bytes alone take, the longer one, and 'share', its part of
    the time; a token's are means over a caption's tokens but the first.
  """
  cost = costs.Costs(model.config)
  itemsize = _itemsize(model.dtype)
  weights = itemsize * (cost.layers + cost.table)

  def row(part, vectors, times, operations, read, dtype='products'):
    limit = max(operations / rates[dtype], read / rates['bandwidth'])
    spread = _spread(times)
    share = 1e3 * limit / spread['ms']
    return {'part': part, 'vectors': vectors, **spread} | {
      'limit_ms': 1e3 * limit,
      'share': share,
    }

  n = model.config.vision.num_tokens
  made = []
  for key, times in seconds.items():
    if key == ('encode',):
      read = itemsize * cost.image
      made.append(row('encoder', n, times, cost.encode(), read))
    elif key[0] == 'encode':
      extra = {'part': f'encoder with {key[1]}', 'vectors': n}
      made.append({**extra, **_spread(times), 'limit_ms': None, 'share': None})
  width = model.config.vision.width
  pairs, read = 2 * n**2 * width, 4 * n * width
  times = seconds['distances',]
  made.append(row('distances of all pairs', n, times, pairs, read, 'float32'))
  for key in sorted(key for key in seconds if key[0] == 'prefill'):
    length = key[1] + prompt_tokens
    made.append(
      row('prefill', key[1], seconds[key], cost.prefill(length), weights)
    )
  for key in sorted(key for key in seconds if key[0] == 'caption'):
    times = [x / (tokens - 1) for x in _decode(seconds, key[1])]
    slots = key[1] + prompt_tokens + tokens // 2
    cache = cost.cache(1, slots, _itemsize(model.compute_dtype))
    made.append(row('token', key[1], times, cost.step(), weights + cache))
  return made


def _rates(dtype: str, *earlier: dict[str, float]) -> dict[str, float]:
  """Returns the device's rates as `parts` takes them, the best of all times.

  Args:
    dtype: Dtype of the model's products.
    *earlier: Rates of other times, at which the device may have been busy.
  """
  rates = device_rates.measure(dtype=dtype.partition('+')[0])
  with jax.default_matmul_precision('highest'):  # Of distances.
    exact = device_rates.measure(dtype='float32')
  now = {
    'products': rates.products,
    'float32': exact.products,
    'bandwidth': max(rates.bandwidth, exact.bandwidth),
  }
  return {name: max(r[name] for r in (now, *earlier)) for name in now}


def _add_all(
  programs: Programs, model: paligemma.Model, settings: argparse.Namespace
) -> list[Refusal]:
  """Adds all programs to be timed; returns the selectors left out."""
  full = codecs.FeatureCodec(model, 'identity')
  programs.add(Candidate('all vectors', full.vectors, 'all', full))
  programs.add_distances(full)
  for text in settings.pictures:
    codec = codecs.parse(text).validate(model.config).bind(model)
    row = {'codec': codec.describe(), 'settings': codec.settings}
    programs.add(Candidate(labels.label(row), None, 'picture', codec))
  refused = []
  end = time.monotonic() + (settings.limit or float('inf'))
  listed = [*candidates(model, settings.selectors, settings.k)]
  for each in tqdm.tqdm(listed, 'compiled', unit='codec'):
    if isinstance(each, Refusal):
      refused.append(each)
    elif time.monotonic() > end:
      why = f'not compiled within {settings.limit:g} s'
      refused.append(Refusal(each.selector, each.k or 0, why))
    else:
      programs.add(each)
  for k in settings.k:  # Beside those of padded prefixes.
    if ('prefill', k) not in programs.calls:
      programs.add_prefill(k)
  return refused


def measure(settings: argparse.Namespace) -> dict[str, Any]:
  """Compiles all programs, times them, and returns the numbers.

  Args:
    settings: The flags.
  """
  model = models.load(settings.model)
  rates = _rates(model.compute_dtype)
  count = min(settings.rounds, settings.scenes)
  reader = models.scenes(model, count)
  images = np.stack([reader[i].image for i in range(count)])
  programs = Programs(model, images, settings.tokens)
  refused = _add_all(programs, model, settings)
  load = os.getloadavg()[0]
  seconds = programs.run(settings.rounds)
  load_after = os.getloadavg()[0]
  rates = _rates(model.compute_dtype, rates)
  budget = channels.Budget()
  made = rows(programs.timed, seconds, settings.uplink, budget)
  return {
    'model': model.config.name,
    'weights': 'random' if settings.model in zoo.NAMES else 'its own',
    'parameters': paligemma.count_parameters(model.params),
    'dtype': model.dtype,
    'compute_dtype': model.compute_dtype,
    'prompt_tokens': programs.prompt_tokens,
    'tokens': settings.tokens,
    'rounds': settings.rounds,
    'scenes': count,
    'ks': settings.k,
    'uplink': settings.uplink,
    'budget': dataclasses.asdict(budget),
    'rates': rates,
    'load': [load, load_after],
    **provenance.provenance(),
    'parts': parts(
      model, seconds, rates, programs.prompt_tokens, settings.tokens
    ),
    'rows': made,
    'refused': [each._asdict() for each in refused],
  }


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--model', default='tiny', help='name, or path of a folder')
  add('--selectors', default=';'.join(SELECTORS), help='separated by ;')
  add('--k', default=','.join(map(str, KS)), help='numbers of vectors')
  add('--pictures', default=';'.join(PICTURES), help='image codecs beside them')
  add('--rounds', type=int, default=15, help='timed runs of each program')
  add('--scenes', type=int, default=8, help='pictures that rounds go through')
  add('--tokens', type=int, default=20, help='of a caption, at least 2')
  add('--uplink', type=float, default=1e6, help='bits per second')
  add('--limit', type=float, default=0, help='seconds to compile; 0: any')
  add('--out', default='', help='file for the numbers, as JSON')
  add('--page', default='', help='Markdown page to write the tables into')
  settings = parser.parse_args()
  for name, least in (('rounds', 1), ('scenes', 1), ('tokens', 2)):
    if getattr(settings, name) < least:
      got = getattr(settings, name)
      parser.error(f'{name}: got {got}, expected at least {least}')
  if not settings.uplink > 0:
    parser.error(f'uplink: got {settings.uplink}, expected more than 0')
  if settings.limit < 0:
    parser.error(f'limit: got {settings.limit}, expected 0 or more')
  ks = settings.k.split(',')
  if not all(k.strip().isdecimal() and int(k) for k in ks):
    parser.error(f'k: got {settings.k!r}, expected integers such as 8,32')
  settings.k = sorted({int(k) for k in ks})
  for name in ('selectors', 'pictures'):
    texts = getattr(settings, name).split(';')
    setattr(settings, name, [text.strip() for text in texts if text.strip()])
  try:
    for text in settings.selectors:
      if '{k}' not in text:
        name, _ = codecs.parse_method(text, 'selectors')
        known = {*quantizers.NAMES, *quantizers.ALIASES} - {*NO_SELECTORS}
        if ':' not in name and name not in known:
          raise ValueError(
            f'selectors: got {name!r}, expected some of'
            f' {", ".join(sorted(known))}'
          )
      _check_selector(text, settings.k)
    for text in settings.pictures:
      if codecs.parse(text).family != 'image':
        raise ValueError(f'pictures: got {text!r}, expected image codecs')
  except (ValueError, ImportError) as error:
    parser.error(str(error))
  flag_names.model(settings.model, or_random=True)
  if settings.out and not Path(settings.out).absolute().parent.is_dir():
    parser.error(f'out: got {settings.out}, expected a folder that exists')
  if settings.page:
    _check_page(parser, settings)
  return settings


def _check_selector(text: str, ks: Sequence[int]) -> None:
  """Raises the error of a selector that none of its numbers of vectors mends.

  Some send few numbers of vectors, such as squares alone.
  """
  errors = []
  for k in (*ks, 4, 16, 64, 256):
    try:
      codecs.make_method(text, k, 'selectors')
      return
    except ValueError as error:
      errors.append(error)
  raise errors[0]


def _check_page(parser, settings) -> None:
  """Refuses a page without the marks, before minutes are spent."""
  page = Path(settings.page)
  mark = selector_tables.mark(Path(settings.model).name)
  if not page.is_file() or page.read_text('utf-8').count(mark) != 2:
    parser.error(
      f'page: got {settings.page}, expected a page that has the mark {mark}'
      ' twice'
    )


def main() -> None:
  """Prints the tables, and writes numbers and page."""
  settings = _parse()
  with launcher.runtime(resumes=False):
    found = measure(settings)
    print(selector_tables.render(found))
    if settings.out:
      Path(settings.out).write_text(json.dumps(found, indent=1) + '\n')
    if settings.page:
      page = Path(settings.page)
      name = Path(settings.model).name
      text = selector_tables.fill(page.read_text('utf-8'), name, found)
      page.write_text(text, 'utf-8')


if __name__ == '__main__':
  main()
