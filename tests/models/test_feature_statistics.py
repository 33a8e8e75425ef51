"""Statistics of features: distances, thresholds, files."""

import dataclasses

import numpy as np
import pytest
from safetensors import numpy as safetensors
from scipy.spatial import distance

from collab_jax.models import feature_statistics


def _means(count, seed=0):
  rng = np.random.default_rng(seed)
  mixed = rng.standard_normal((6, 6)).astype(np.float32)
  drawn = rng.standard_normal((count, 6), np.float32)
  return (drawn @ mixed + 3).astype(np.float32)


@pytest.fixture
def statistics():
  means = _means(500)
  splits = {
    'encoder': feature_statistics.fit(means, means[:50]),
    'head': feature_statistics.fit(means[:, :4], means[:50, :4]),
  }
  return feature_statistics.FeatureStatistics('the drawings', 'ab12', splits)


def test_distance_is_that_of_scipy(statistics):
  means = _means(500)
  covariance = np.cov(means.astype(np.float64).T)
  shrunk = 1e-3 * np.trace(covariance) / 6 * np.eye(6)
  inverse = np.linalg.inv(covariance + shrunk)
  centre = means.mean(0)
  want = [distance.mahalanobis(m, centre, inverse) for m in means[:20]]
  got = statistics.splits['encoder'].distances(means[:20])
  np.testing.assert_allclose(got, np.divide(want, np.sqrt(6)), rtol=1e-4)


def test_threshold_is_the_largest_of_held_out_pictures(statistics):
  means = _means(500)
  distances = statistics.splits['encoder'].distances(means)
  assert statistics.splits['encoder'].threshold == distances[:50].max()
  assert not statistics.unlike(means[:50], 'encoder').any()
  far = means[:3] + 100
  assert statistics.unlike(far, 'encoder').all()
  # Nothing is known of other splits and widths.
  assert not statistics.unlike(far, 'middle').any()
  assert not statistics.unlike(far, 'head').any()


def test_direction_without_variance_weighs_little():
  means = _means(500)
  flat = np.concatenate([means, np.zeros((500, 1), np.float32)], 1)
  gaussian = feature_statistics.fit(flat, flat[:50])
  rounded = flat[:50] + np.float32(1e-3) * np.eye(7, dtype=np.float32)[6]
  np.testing.assert_allclose(
    gaussian.distances(rounded), gaussian.distances(flat[:50]), rtol=1e-3
  )


def test_file_gives_equal_statistics(statistics, tmp_path):
  path = tmp_path / feature_statistics.FILE
  feature_statistics.save(path, statistics)
  got = feature_statistics.read(path)
  # Programs compiled for one model serve another load of it.
  assert got == statistics
  assert hash(got) == hash(statistics)
  far = _means(3) + 100
  assert got.unlike(far, 'encoder').tolist() == [True] * 3
  fewer = dataclasses.replace(got, splits={'head': got.splits['head']})
  assert fewer != got


def _write(path, arrays, **metadata):
  metadata = {'format': feature_statistics.FORMAT, **metadata}
  path.write_bytes(safetensors.save(arrays, metadata))


def test_bad_files_are_refused(statistics, tmp_path):
  path = tmp_path / feature_statistics.FILE
  with pytest.raises(FileNotFoundError):
    feature_statistics.read(path)
  feature_statistics.save(path, statistics)
  whole = path.read_bytes()
  for cut in (0, 7, 100, len(whole) - 1):
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r'write it again, or remove it'):
      feature_statistics.read(path)
  mean, square = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
  arrays = {'head.mean': mean, 'head.whitening': square}
  threshold = {'head.threshold': '1.0'}
  _write(path, arrays, **threshold)
  feature_statistics.read(path)
  for wrong, metadata, match in (
    (arrays, {}, r'threshold: got nan'),
    (arrays, {'head.threshold': '-1'}, r'threshold: got -1'),
    (arrays, {'head.threshold': 'far'}, r'far'),
    (arrays, {**threshold, 'format': 'a book'}, r"format: got 'a book'"),
    ({'head.mean': mean}, threshold, r'whitening'),
    ({**arrays, 'head.mean': square}, threshold, r'expected \[D\]'),
    ({**arrays, 'head.whitening': square[:2]}, threshold, r'expected \(3, 3\)'),
    ({**arrays, 'head.mean': mean + np.nan}, threshold, r'not finite'),
  ):
    _write(path, wrong, **metadata)
    with pytest.raises(ValueError, match=match):
      feature_statistics.read(path)
