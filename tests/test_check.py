"""Checks return what they checked, and say expected, got, remedy."""

import pytest

from medjax import check


@pytest.mark.parametrize(
  ("call", "value"),
  [
    (lambda: check.given(0, "a count", "pass one"), 0),
    (lambda: check.positive("size", 2), 2),
    (lambda: check.non_negative("size", 0), 0),
    (lambda: check.in_interval("share", 1, 0, 1), 1),
    (lambda: check.probability("share", 0.5), 0.5),
    (lambda: check.ordered("range", (2, 2), least=2, most=2), (2, 2)),
    (lambda: check.one_of("name", "a", "ab"), "a"),
    (lambda: check.same_shape("image", [2, 3], "label", (2, 3)), (2, 3)),
  ],
)
def test_a_good_value_comes_back(call, value):
  assert call() == value


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: check.given(None, "a count", "pass one"), "expected a count, got none; pass one"),
    (lambda: check.positive("size", float("nan")), "expected size > 0, got size=nan"),
    (lambda: check.probability("share", 1.5), r"expected share in \[0.0, 1.0\], got share=1.5"),
    (lambda: check.ordered("range", (2, 1)), "low <= high, got range=.2, 1.; swap them"),
    (lambda: check.ordered("range", (0, 1), above=0), r"expected range\[0\] > 0, got range=.0, 1."),
    (lambda: check.ordered("range", (-1, 1), least=0), r"expected range\[0\] >= 0"),
    (lambda: check.ordered("range", (0, 2), most=1), r"expected range\[1\] <= 1"),
    (lambda: check.ordered("range", (float("nan"), 1), above=0), "low <= high"),
  ],
)
def test_a_bad_value_is_refused_in_one_line(call, message):
  with pytest.raises(check.InputError, match=message):
    call()


def test_paths_have_to_be_there(tmp_path):
  file = tmp_path / "a"
  file.touch()
  assert check.existing_file(str(file)) == file
  assert check.existing_folder(tmp_path) == tmp_path
  with pytest.raises(
    check.InputError, match="expected a file .*, got nothing there; check the path"
  ):
    check.existing_file(tmp_path)
  with pytest.raises(check.InputError, match="expected a folder"):
    check.existing_folder(file)
