"""The edge without a decoder and the server without an encoder."""

import jax
import numpy as np
import pytest

from collab_jax import checkpoints, codecs, quantizers
from collab_jax.models import paligemma
from tests.checkpoints.released import GOLDEN, config_of

FOLDER = GOLDEN / 'pg2_56/hf_old_sharded'


def generate(model, prefix):
  tokens = np.array([[2, 50, 60, 108]] * 3, np.int32)
  mask = np.ones((3, 4), bool)
  return np.asarray(model.generate(prefix, tokens, mask, 6))


@pytest.mark.parametrize('split', codecs.SPLITS)
def test_both_halves_say_what_the_whole_says(split):
  parts = {p: checkpoints.load(FOLDER, part=p) for p in checkpoints.PARTS}
  images = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)
  whole, edge, server = (
    codecs.FeatureCodec(parts[p], quantizers.KMeans(k=4), split)
    for p in (None, 'edge', 'server')
  )
  packets = edge.encode(images, jax.random.key(0))
  assert packets == whole.encode(images, jax.random.key(0))
  np.testing.assert_array_equal(
    generate(parts['server'], server.decode(packets)),
    generate(parts[None], whole.decode(packets)),
  )


@pytest.mark.parametrize(
  ('part', 'share'), [('edge', 0.34), ('server', 0.69), (None, 1.0)]
)
def test_what_is_resident(part, share):
  model = checkpoints.load(FOLDER, part=part)
  size = sum(p.size for p in jax.tree.leaves(model.params))
  whole = jax.tree.leaves(paligemma.shapes(config_of('pg2_56')))
  assert size <= share * sum(p.size for p in whole)


def test_the_edge_reads_no_vocabulary(tmp_path):
  for path in FOLDER.iterdir():
    (tmp_path / path.name).symlink_to(path)
  (tmp_path / 'tokenizer.model').write_bytes(b'broken')
  assert checkpoints.load(tmp_path, part='edge').tokenizer is None
  with pytest.raises(ValueError, match='not a SentencePiece model'):
    checkpoints.load(tmp_path)


def test_unknown_part():
  with pytest.raises(ValueError, match="part: got 'img', expected one of"):
    checkpoints.load(FOLDER, part='img')
