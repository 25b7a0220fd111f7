"""Words as numbers: a vocabulary of whole words, for labels and short reports.

Whole words and not parts of words, as a trained tokenizer has them: labels and reports of a grammar
come from a closed list of a hundred words or fewer, so there is nothing to learn a split from and
no rare word to put together. A decoder of whole words cannot write what is no word, texts are half
as long, and a word that the list does not hold is named when it is met. Free text of many thousand
words needs a tokenizer; its numbers go into `nets.WordDecoder` as these do.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from medjax import check


class Vocabulary:
  """Words in alphabetical order after the end mark, which has number 0 and fills up.

  >>> words = Vocabulary(["benign", "poorly differentiated cancer"])
  >>> words.numbers("poorly differentiated cancer", 5).tolist(), len(words)
  ([4, 3, 2, 0, 0], 5)
  >>> words.text([1, 0, 0])
  'benign'

  Words are what stands between spaces: upper and lower case and punctuation count.
  """

  END = 0

  def __init__(self, texts: Iterable[str]):
    """Collects the words of all texts."""
    self.words = ("", *sorted({word for text in texts for word in text.split()}))
    self._number = {word: number for number, word in enumerate(self.words)}
    check.require(len(self.words) > 1, "texts with words", "none", "pass the labels' names")

  def __len__(self) -> int:
    """Words, the end mark included."""
    return len(self.words)

  def numbers(self, text: str, length: int) -> np.ndarray:
    """[length] int32, ended and filled up by 0.

    Raises:
      InputError: a word that is not in the vocabulary, or no room for the text and its end.
    """
    words = text.split()
    for word in words:
      check.require(
        word in self._number,
        "words of the vocabulary",
        f"{word!r} in {text!r}",
        "build the vocabulary from all texts",
      )
    check.require(
      len(words) < length,
      f"at most {length - 1} words",
      f"{len(words)} in {text!r}",
      "allow more",
    )
    found = np.zeros(length, np.int32)
    found[: len(words)] = [self._number[word] for word in words]
    return found

  def text(self, numbers: Sequence[int] | np.ndarray) -> str:
    """Words up to the end."""
    found = []
    for number in np.asarray(numbers).tolist():
      if number == self.END:
        break
      found.append(self.words[number])
    return " ".join(found)
