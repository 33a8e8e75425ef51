"""Training of the tiny model that ships with the package."""

import ml_collections

from collab_jax import config as config_lib

MODES = ('full', 'smoke')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings; `:mode=smoke` trains a toy in seconds."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  c = ml_collections.ConfigDict()
  c.seed = 0  # Of what is drawn.
  c.prompt = 'caption en'  # Text before the captions.
  # Devices over which the rows of a batch are spread, -1 for all.
  c.mesh = ml_collections.ConfigDict({'data': -1})
  # Other processes that run the same model: '' for none, 'auto' on SLURM, Cloud
  # TPU and GKE, else 'host:port,i/n', an address of process 0 and which process
  # of how many this is; docs/cluster.md.
  c.distributed = ''

  # The model, in the terms of `paligemma.Config.from_dict`.
  c.model = ml_collections.ConfigDict()
  c.model.name = 'tiny'
  c.model.image_size = 64
  c.model.patch_size = 4
  c.model.unroll = True
  c.model.vit = ml_collections.ConfigDict(
    {'width': 128, 'depth': 4, 'num_heads': 2, 'mlp_dim': 256}
  )
  c.model.llm = ml_collections.ConfigDict(
    {
      'width': 128,
      'depth': 2,
      'mlp_dim': 256,
      'num_heads': 4,
      'num_kv_heads': 1,
      'head_dim': 32,
      'vocab_size': 640,
    }
  )

  # The vocabulary is trained on the captions of the first scenes.
  c.vocabulary_scenes = 2000
  c.text_length = 40  # Tokens of prompt and caption, padded.

  c.batch_size = 32  # Scenes at a time.
  # First the encoder learns the labels of patches in dense scenes, then
  # everything learns captions of both kinds of scenes.
  c.label_steps = 1100
  c.steps = 3600  # All steps.
  c.dense_share = 0.4  # Share of dense scenes in the second part.
  c.optimizer = 'muon'  # Or 'adamw'.
  c.learning_rate = 2e-3  # At the top; it falls along a cosine.
  c.warmup_steps = 100  # Steps in which the learning rate rises from 0.
  c.weight_decay = 0.02  # With 'muon' of the matrices alone.
  c.clip = 1.0  # Largest norm of all gradients together.

  c.log_every = 50  # Steps between lines of metrics.jsonl.
  c.save_every = 250  # Steps between checkpoints.
  c.eval_every = 1000  # Steps between evaluations.
  c.eval_scenes = 200  # Scenes of `val` in each of them.
  c.max_tokens = 34  # Longest caption of an evaluation.

  if mode == 'smoke':
    c.model.vit = ml_collections.ConfigDict(
      {'width': 16, 'depth': 1, 'num_heads': 2, 'mlp_dim': 32}
    )
    c.model.llm.update(
      {'width': 16, 'depth': 1, 'mlp_dim': 32, 'num_heads': 2, 'head_dim': 8}
    )
    c.vocabulary_scenes = 400
    c.optimizer = 'adamw'  # Compiles in half the time.
    c.batch_size, c.label_steps, c.steps, c.warmup_steps = 4, 4, 8, 2
    c.log_every, c.save_every, c.eval_every, c.eval_scenes = 2, 2, 8, 4
    c.max_tokens = 8
  return c
