"""Shipped model through the server."""

from concurrent import futures
import dataclasses

import jax
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, serving
from tests import standin
from tests.serving import harness

SCENES = 12


def test_shipped_model_captions_equal_those_of_this_process():
  name = standin.shipped()
  model = checkpoints.load(name)
  reader = data.scenes('test', limit=SCENES)
  images = np.stack([reader[i].image for i in range(SCENES)])
  codec = codecs.FeatureCodec(model, 'kmeans(k=8)')
  packets = codec.encode(images, jax.random.key(0))
  sizes = dataclasses.replace(
    harness.SIZES, max_prefill_batch=1, max_tokens=32, max_prompt=16
  )
  want = captioning.Captioner(model, 32)(codec.decode(packets))
  # What the server's part holds is enough.
  chosen = harness.make_config(quantizers='kmeans(k=8)', engine=sizes)
  part = checkpoints.load(name, part='server')
  encoder = codecs.encoder_fingerprint(model)
  with serving.Server(part, chosen, encoder) as server:
    caller = harness.Caller(server.address)
    caller.handshake(codec)
    with futures.ThreadPoolExecutor(12) as edges:
      replies = list(edges.map(lambda m: caller.caption(codec, m), packets))
    caller.channel.close()
    assert server.metrics.value('compilations_total', when='serving') == 0
  assert [reply.caption for reply in replies] == want
  assert len({reply.tokens for reply in replies}) > 3
