"""Texts to numbers and back; what a vocabulary does not hold is refused."""

import pytest

from medjax.check import InputError
from medjax.data import Vocabulary


def test_a_text_comes_back():
  texts = ["well differentiated cancer", "benign", "poorly differentiated cancer"]
  words = Vocabulary(texts)
  assert len(words) == 6
  for text in texts:
    numbers = words.numbers(text, 4)
    assert numbers.shape == (4,) and numbers[-1] == Vocabulary.END
    assert words.text(numbers) == text


def test_unknown_words_and_long_texts_are_named():
  words = Vocabulary(["benign tissue"])
  with pytest.raises(InputError, match="'cancer' in 'benign cancer'"):
    words.numbers("benign cancer", 5)
  with pytest.raises(InputError, match="at most 1 words, got 2"):
    words.numbers("benign tissue", 2)
  with pytest.raises(InputError, match="texts with words"):
    Vocabulary([])
