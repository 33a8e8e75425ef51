"""Hypothesis strategies for captions and their references."""

from hypothesis import strategies as st

# Few words, so that n-grams do match.
WORDS = st.sampled_from(['a', 'cat', 'dog', 'red', 'on', 'the', 'mat'])
CAPTIONS = st.lists(WORDS, max_size=9).map(' '.join)
REFERENCES = st.lists(
  st.lists(WORDS, min_size=1, max_size=9).map(' '.join), min_size=1, max_size=4
)
CORPORA = st.lists(st.tuples(CAPTIONS, REFERENCES), min_size=1, max_size=6).map(
  lambda pairs: ([c for c, _ in pairs], [r for _, r in pairs])
)
