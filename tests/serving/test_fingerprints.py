"""Fingerprints of the weights at both ends."""

import numpy as np
import pytest

from collab_jax import codecs, serving
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import retry
from tests.serving import harness


def test_features_of_another_encoder_are_refused(shared, model, made):
  text = made['kmeans'][0].to_json()
  img = {**model.params['img']}
  img['pos_embedding'] = np.asarray(img['pos_embedding']) + 0.5
  tuned = model.replace(params={**model.params, 'img': img})
  codec = codecs.FeatureCodec(tuned, 'kmeans(k=4)')
  # The session is the same: only the projection is in it.
  assert codec.to_json() == text
  with clients.EdgeClient(shared.address, codec) as client:
    with pytest.raises(retry.RemoteError, match='image encoder: got the'):
      client.handshake()
    pictures = codecs.ImageCodec(tuned, 'webp', quality=40)
    agreed = client.using(pictures).handshake()
  assert agreed.encoder == codecs.encoder_fingerprint(model)
  # Whoever does not say is let in.
  caller = harness.Caller(shared.address)
  assert caller.handshake(text).session
  caller.channel.close()


def test_server_part_uses_the_given_fingerprint(model):
  img = {'head': model.params['img']['head']}
  part = model.replace(params={**model.params, 'img': img})
  chosen = harness.make_config(quantizers='pool(k=4,n=64)')
  codec = codecs.FeatureCodec(model, chosen.quantizers)
  for encoder in ('', 'another'):
    with (
      serving.Server(part, chosen, encoder) as server,
      clients.EdgeClient(server.address, codec, timeout=5.0) as client,
    ):
      if not encoder:
        known = codecs.encoder_fingerprint(model)
        assert client.handshake().encoder == known
        continue
      with pytest.raises(retry.RemoteError, match="expected 'another'"):
        client.handshake()
