"""Trains a vocabulary on captions."""

from collections.abc import Iterable
import io

import sentencepiece

from collab_jax.models import tokenizer


def train_tokenizer(
  texts: Iterable[str], vocab_size: int, model_type: str = 'bpe'
) -> bytes:
  r"""Trains a SentencePiece model with Gemma's special ids.

  The rules are Gemma's: no normalisation, no space put in front, whitespace
  kept, digits split, bytes for what the pieces cannot spell, and '\n' as a
  piece of its own. Hence `decode(encode(text)) == text` for every text but
  those with SentencePiece's own space, U+2581.

  Args:
    texts: The captions, and the prompts if they are to be short. The order is
      kept, and the same texts give the same bytes.
    vocab_size: Upper limit of the number of ids, 261 of which are the special
      ids, the newline and the bytes.
    model_type: 'bpe', as Gemma's, or 'unigram'.

  Returns:
    The model, as `tokenizer.Tokenizer` reads it; smaller than `vocab_size` if
    the texts do not hold that many pieces.

  Raises:
    ValueError: `vocab_size` is too small for the texts' characters, or there
      are no texts.
  """
  lines = [text for text in texts if text]
  if not lines:
    raise ValueError('no texts to train a vocabulary on')
  characters = set().union(*lines) - {'\n'}
  least = 1 + len(tokenizer.SPECIALS) + 256 + len(characters)
  if vocab_size < least:
    raise ValueError(
      f'vocab_size is {vocab_size}, expected at least {least}: 4 special ids, '
      f'the newline, 256 bytes and {len(characters)} characters of the texts'
    )
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(lines),
    model_writer=model,
    model_type=model_type,
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    pad_id=tokenizer.SPECIALS['pad'],
    eos_id=tokenizer.SPECIALS['eos'],
    bos_id=tokenizer.SPECIALS['bos'],
    unk_id=tokenizer.SPECIALS['unk'],
    pad_piece='<pad>',
    eos_piece='<eos>',
    bos_piece='<bos>',
    unk_piece='<unk>',
    user_defined_symbols=['\n'],
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_name='identity',
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    split_digits=True,
    num_threads=1,
    shuffle_input_sentence=False,
    minloglevel=2,
  )
  return model.getvalue()
