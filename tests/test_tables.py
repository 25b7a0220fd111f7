"""One reader for every table: what is not as the header says is refused by file and line."""

import pytest

from medjax import tables
from medjax.check import InputError
from medjax.tables import Line, check_once, read_lines, read_table

HEAD = "name,a,b\n"


def write(folder, text, encoding="utf-8"):
  path = folder / "t.csv"
  path.write_bytes(text.encode(encoding))
  return path


def test_rows_know_their_line_and_quotes_hold_commas(tmp_path):
  rows = read_table(write(tmp_path, HEAD + 'x,1,2\n\n"y, z",3,4\n'), ("name", "b"))
  assert [row.cells for row in rows] == [
    {"name": "x", "a": "1", "b": "2"},
    {"name": "y, z", "a": "3", "b": "4"},
  ]
  assert rows[1].where.startswith("line 4 of ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, encoding):
  (row,) = read_table(write(tmp_path, HEAD + "Médical,1,2\n", encoding), ("name",))
  assert row.text("name") == "Médical"
  assert read_lines(write(tmp_path, "a\n\n b \n", encoding)) == ["a", "b"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (HEAD + "x,1,2\ny,1\n", "3 cells in line 3 of .*t.csv, got 2"),
    (HEAD + "x,1,0,2\n", "3 cells in line 2 of .*, got 4"),
    (HEAD + "x,1,0,\n", "3 cells in line 2 of .*, got 4"),  # 1,0 for 1.0 beside a blank cell
    ("name;a;b\nx;1;2\n", "columns name in .*t.csv, got none named name; its first line"),
    ("name,a,a\n", "columns of different names in .*, got two of a"),
    ("", "a header line in .*t.csv, got an empty file"),
    (HEAD + 'x,"1,2\n', "a table in .*t.csv, got an error in line"),
    (HEAD + "x,\0,2\n", "text in .*t.csv, got a zero byte"),
  ],
)
def test_what_does_not_fit_the_header_is_refused(tmp_path, text, message):
  with pytest.raises(InputError, match=message):
    read_table(write(tmp_path, text), ("name",))


@pytest.mark.parametrize(
  ("encoding", "got"), [("latin-1", "a byte 0xe9 in line 2"), ("utf-16", "UTF-16")]
)
def test_other_encodings_are_refused_by_name(tmp_path, encoding, got):
  with pytest.raises(InputError, match=rf"UTF-8 text in .*t.csv, got {got}"):
    read_table(write(tmp_path, HEAD + "Médical,1,2\n", encoding))


def test_numbers_are_whole_and_finite_or_refused_with_their_place():
  def row(text):
    return Line("line 7 of t.csv", {"ED": text})

  assert row(" 3 ").whole("ED") == row("3.0").whole("ED", least=3) == 3
  for text in ("0.6", "inf", "nan", "", "x", "1,0"):
    with pytest.raises(InputError, match="'ED' in line 7 of t.csv"):
      row(text).whole("ED")
  with pytest.raises(InputError, match="from 0 as 'ED'"):
    row("-1").whole("ED", least=0)
  with pytest.raises(InputError, match="a value of 'ED' in line 7"):
    row("  ").filled("ED")


def test_a_key_of_two_rows_is_refused_with_both_places():
  check_once([("a", "line 2"), ("b", "line 3")], "picture")
  with pytest.raises(InputError, match="one place for picture 'a', got line 2 and line 4"):
    check_once([("a", "line 2"), ("b", "line 3"), ("a", "line 4")], "picture")


def test_an_unreadable_file_is_an_input_error(tmp_path):
  with pytest.raises(InputError, match="a file .*none.csv, got nothing there"):
    tables.read_table(tmp_path / "none.csv")
