r"""Measures the bytes saved by sending fine layers only where needed.

python -m benchmarks.progressive --limit=200

A server and an edge in this process, over loopback. Of every scene the first
layers of its message are captioned, and the whole message; from the two
captions and the min-entropy of the first, all thresholds follow. The threshold
is chosen on scenes of `val`, and told beside what the default does on `test`.
"""

from typing import NamedTuple

from absl import app, flags
import numpy as np

from benchmarks import flag_names
from collab_jax import checkpoints, codecs, data, metrics, serving
from collab_jax.evaluation.report import text
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import rate_control

_CODEC = flags.DEFINE_string(
  'codec', rate_control.PROGRESSIVE, 'A quantizer with layers.'
)
_COARSE = flags.DEFINE_integer(
  'coarse', rate_control.COARSE, 'Layers to send first.'
)
_LIMIT = flags.DEFINE_integer('limit', 200, 'First so many scenes of a split.')
_KEEP = flags.DEFINE_float(
  'keep', 0.98, 'Share of the BLEU-4 of whole messages that is to be kept.'
)

# Of the pictures whose fine layers are sent.
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_DRAWS = 200


class Seen(NamedTuple):
  """Captions by the first layers and by whole messages.

  Attributes:
    coarse: Statistics of the captions by the first layers, an image a row.
    whole: Those by whole messages.
    bits: Min-entropy of the first.
    bytes: Of the first layers, and of the rest.
  """

  coarse: np.ndarray
  whole: np.ndarray
  bits: np.ndarray
  bytes: np.ndarray

  def at(self, fine: np.ndarray) -> tuple[float, float]:
    """BLEU-4 and mean bytes, if these get the fine layers."""
    stats = np.where(fine[:, None], self.whole, self.coarse).sum(0)
    sizes = self.bytes[:, 0] + np.where(fine, self.bytes[:, 1], 0)
    return float(metrics.bleu4(stats)), float(sizes.mean())


def see(server: str, codec: codecs.FeatureCodec, split: str) -> Seen:
  """Captions a split twice."""
  scenes = data.scenes(split, _LIMIT.value)
  examples = [scenes[i] for i in range(len(scenes))]
  images = np.stack([example.image for example in examples])
  ids = [example.image_id for example in examples]
  references = [example.captions for example in examples]
  results = []
  # First layers only, whether the server is unsure or not; then all at once.
  for settings in ({'threshold': float('inf'), 'coarse': _COARSE.value}, {}):
    with clients.EdgeClient(server, codec, **settings) as client:
      results.append(client.caption(images, image_ids=ids))
  coarse, whole = results
  sizes = (
    np.array([a.bytes for a in coarse]),
    np.array([a.bytes for a in whole]),
  )
  return Seen(
    metrics.corpus_bleu_stats([a.caption for a in coarse], references),
    metrics.corpus_bleu_stats([a.caption for a in whole], references),
    np.array([a.min_entropy for a in coarse]),
    np.stack([sizes[0], sizes[1] - sizes[0]], 1),
  )


def threshold_of(seen: Seen, keep: float) -> float:
  """The highest threshold by which so much of the BLEU-4 is kept."""
  whole, _ = seen.at(np.ones(len(seen.bits), bool))
  for bits in sorted(seen.bits, reverse=True):
    score, _ = seen.at(seen.bits > bits)
    if score >= keep * whole:
      return float(bits)
  return 0.0


def at_random(seen: Seen, share: float) -> float:
  """BLEU-4 if as many get the fine layers, whoever they are."""
  draws = np.random.default_rng(0)
  count = round(share * len(seen.bits))
  scores = []
  for _ in range(_DRAWS):
    fine = np.zeros(len(seen.bits), bool)
    fine[draws.permutation(len(fine))[:count]] = True
    scores.append(seen.at(fine)[0])
  return float(np.mean(scores))


def row(name: str, seen: Seen, threshold: float) -> list[str]:
  """A line of the table."""
  fine = seen.bits > threshold
  score, size = seen.at(fine)
  return [
    name,
    f'{threshold:.2f}',
    f'{100 * fine.mean():.0f}%',
    f'{size:.1f}',
    f'{score:.1f}',
    f'{at_random(seen, fine.mean()):.1f}',
  ]


def main(argv):
  """Prints a line per threshold."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.quantizer(_CODEC.value, flag_names.model('tiny'))
  model = checkpoints.load('tiny')
  codec = codecs.FeatureCodec(model, _CODEC.value, coding='best')
  if not 0 < _COARSE.value < codec.layers:
    raise SystemExit(
      f'error: coarse: got {_COARSE.value} layers to send first, expected fewer'
      f' than {_CODEC.value} has, {codec.layers}'
    )
  config = serving.ServerConfig(
    port=0,
    metrics_port=-1,
    quantizers=_CODEC.value,
    engine=serving.EngineConfig(max_tokens=34),
  )
  with serving.Server(model, config) as server:
    seen = {
      split: see(server.address, codec, split) for split in ('val', 'test')
    }
  chosen = threshold_of(seen['val'], _KEEP.value)
  lines = [['', 'bits', 'fine', 'bytes', 'BLEU-4', 'as many at random']]
  for share in _SHARES:
    bits = np.quantile(seen['test'].bits, 1 - share) if share < 1 else -1.0
    lines.append(row(f'test, {100 * share:.0f}% fine', seen['test'], bits))
  for split in ('val', 'test'):
    lines.append(row(f'{split}, {_KEEP.value:.0%} on val', seen[split], chosen))
  lines.append(row('test, the default', seen['test'], rate_control.THRESHOLD))
  print(f'{codec.name}, {_COARSE.value} layers first')
  print(text.align(lines, left=1))


if __name__ == '__main__':
  app.run(main)
