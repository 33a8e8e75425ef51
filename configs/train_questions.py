"""Training of the tiny model on questions: its second stage."""

import ml_collections

from collab_jax import config as config_lib

MODES = ('full', 'smoke')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings; `:mode=smoke` trains a toy in a minute."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  c = ml_collections.ConfigDict()
  c.stage = 'questions'  # Tells `experiments/train.py` to go on from a model.
  # The captioner: a name or a path that `load` takes. Here the one that
  # configs/train_tiny.py makes.
  c.start = 'runs/train_tiny/model'
  c.seed = 0  # Of what is drawn.
  c.prompt = 'caption en'  # Text before the captions.
  # Devices over which the scenes of a batch are spread, -1 for all.
  c.mesh = ml_collections.ConfigDict({'data': -1})
  # Other processes that run the same model: '' for none, 'auto' on SLURM, Cloud
  # TPU and GKE, else 'host:port,i/n', an address of process 0 and which process
  # of how many this is; docs/cluster.md.
  c.distributed = ''

  # The new model. Fresh layers lie on those of the start; of the pieces, 1024
  # are locations and 128 parts of masks.
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
      'depth': 3,
      'mlp_dim': 256,
      'num_heads': 4,
      'num_kv_heads': 1,
      'head_dim': 32,
      'vocab_size': 1920,
    }
  )
  c.vocabulary_scenes = 2000  # Scenes whose texts the pieces are trained on.
  c.encoder = False  # Train the encoder, too, and keep the loss of labels.

  c.batch_size = 16  # Scenes at a time.
  c.first_scene = 1_000_000  # Number of the first scene.
  c.dense_share = 0.4  # Share of dense scenes.
  # At first a scene has one row, of many texts that the picture does not see;
  # later some rows of one text each, as the model is asked.
  c.packed_steps = 6_000
  c.packed_size = (256, 128)  # Tokens of a row's texts, and of their answers.
  c.rows = 6  # Rows of a scene: two captions, one for boxes, other questions.
  c.row_size = (48, 36)  # Tokens of a row's text, and of its answer.
  # Weights of a token: of captions, of boxes, of answers in words.
  c.weights = ml_collections.ConfigDict(
    {'caption': 1.0, 'detect': 1.0, 'answer': 2.0}
  )
  c.steps = 7_500  # All steps.
  c.optimizer = 'muon'  # Or 'adamw'.
  c.learning_rate = 1.5e-3  # At the top; it falls along a cosine.
  c.warmup_steps = 200  # Steps in which the learning rate rises from 0.
  c.weight_decay = 0.02  # With 'muon' of the matrices alone.
  c.clip = 1.0  # Largest norm of all gradients together.

  c.log_every = 50  # Steps between lines of metrics.jsonl.
  c.save_every = 250  # Steps between checkpoints.
  c.eval_every = 2500  # Steps between evaluations.
  c.eval_scenes = 200  # Scenes of `val` whose captions are scored.
  c.eval_questions = 100  # Scenes of `val` whose answers are scored.
  c.max_tokens = 36  # Longest caption or boxes of an evaluation.

  if mode == 'smoke':
    c.start, c.model.llm.depth = 'tiny', 4  # One layer more than it has.
    c.vocabulary_scenes = 200
    c.optimizer = 'adamw'  # Compiles in half the time.
    c.batch_size, c.rows = 2, 3
    c.packed_steps, c.steps, c.warmup_steps = 4, 8, 2
    c.log_every, c.save_every, c.eval_every = 2, 2, 8
    c.eval_scenes, c.eval_questions = 4, 1
  return c
