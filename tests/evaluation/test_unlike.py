"""Remark on pictures unlike those of the training, by kind of text."""

import pytest

from collab_jax.evaluation.report import unlike


@pytest.mark.parametrize(
  ('more', 'said'),
  [
    ({}, 'its caption means nothing.'),
    ({'task': 'scenes', 'question': '1'}, 'its answers mean nothing.'),
  ],
)
def test_what_means_nothing(more, said):
  record = {'image_id': 1, 'data': 'photos/test', 'model': 'tiny', **more}
  records = [record | {'unlike': True}, record | {'image_id': 2}]
  text = unlike.of_records(records)
  assert text.startswith('1 of 2 pictures of photos/test is unlike those')
  assert text.endswith(said)
  row = {'unlike': 1, 'images': 2, 'data': 'photos/test', 'model': 'tiny'}
  if more:
    row['questions'] = 4
  assert unlike.unlike_pictures([row]) == text
