"""The report is one whole, well-formed page; its pictures show what they were given."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from medjax.check import InputError
from medjax.train import Report, figures

VOID = {"meta", "img", "br", "link", "hr"}


class Page(html.parser.HTMLParser):
  """Checks that tags nest; collects ids, links, sources and text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.links, self.sources, self.texts = [], [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    if tag not in VOID:
      self.open.append(tag)
    for name, value in attributes:
      if name == "id":
        self.ids.append(value)
      elif name in ("href", "xlink:href"):
        self.links.append(value)
      elif name == "src":
        self.sources.append(value)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def full_report():
  x = np.arange(5)
  image, labels = np.arange(16.0).reshape(4, 4), np.eye(4, dtype=np.int32)
  report = Report("A <title> & more", "Lead with <b>markup</b>.")
  report.section("Scores", "First.\n\nSecond.").note("Not < significant.")
  report.table(["arm", "Dice", "n"], [["a", 0.81234, 5], ["b<", float("nan"), 12345]], "Means.")
  report.section("Pictures").images(np.stack([image, image]), ["a", "b"]).images(
    [image, np.ones((4, 4, 3))], ["grey", '"rgb"'], 2
  )
  report.overlay([image], ["case"], class_names=["bg", "white <matter>"], fills=[labels])
  for _ in range(2):
    report.curves({"a & b": (x, x**2), "c": (x, x)}, "steps", "loss", {"base": 3.0}, caption="c")
    report.bars(["a & b", "c<"], [1.5, 2.0], "ms", marks=[1.0, float("nan")], caption="bars")
  return report


def test_page_is_whole_well_formed_and_needs_nothing_else(tmp_path):
  full_report().write(tmp_path / "report.html")
  text = (tmp_path / "report.html").read_text(encoding="utf-8")
  page = Page(text)
  code = re.sub(r'"data:image/png;base64,[^"]*"', '""', text)
  assert not re.search(r"https?:|//|@import|<script|<link|url\((?!#)", code)
  assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
  assert all(source.startswith("data:image/png;base64,") for source in page.sources)
  assert len(page.ids) == len(set(page.ids))  # equal SVGs on one page share no ids
  assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
  assert {"section-1", "section-2"} <= set(page.ids)
  assert "prefers-color-scheme: dark" in text
  assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_all_text_is_escaped():
  texts = Page(full_report().html()).texts
  for shown in ("A <title> & more", "Lead with <b>markup</b>.", "b<", "white <matter>", "a & b"):
    assert shown in texts


def test_same_report_same_bytes():
  assert full_report().html() == full_report().html()


def test_numbers_stand_right_and_align():
  report = Report("t").table(
    ["name", "x", "n", "mixed"], [["a", 0.5, 1, 2.0], ["b", 2.875, 12345, "z"], ["c", None, 3, 1]]
  )
  text = report.html()
  assert re.findall(r'<td class="number">(.*?)</td>', text) == [
    *("0.500", "1"),
    *("2.875", "12,345"),
    *("–", "3"),
  ]
  with pytest.raises(InputError, match="rows of 2 cells, got one of 1"):
    Report("t").table(["a", "b"], [[1]])


def test_png_holds_the_pixels():
  encoded = figures.png(np.array([[0.0, 1.0], [2.0, 4.0]]), window=(0.0, 2.0))
  pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))
  np.testing.assert_array_equal(pixels, [[0, 128], [255, 255]])
  with pytest.raises(ValueError, match="cut a slice from a volume"):
    figures.png(np.zeros((2, 2, 2, 1)))


def test_overlay_tints_inside_and_draws_borders():
  labels = np.zeros((64, 64), np.int32)
  labels[16:48, 16:48] = 2
  grey = np.full((64, 64), 100, np.uint8)
  second = np.array([0x56, 0xB4, 0xE9])  # the palette's colour of class 2
  tinted = figures.overlay(grey, labels, alpha=0.5)
  k = tinted.shape[0] // 64
  np.testing.assert_array_equal(tinted[0, 0], [100] * 3)
  np.testing.assert_array_equal(tinted[32 * k, 32 * k], np.round((100 + second) / 2))
  outlined = figures.overlay(grey, outline=labels)
  np.testing.assert_array_equal(outlined[32 * k, 32 * k], [100] * 3)
  np.testing.assert_array_equal(outlined[16 * k, 32 * k], second)
  np.testing.assert_array_equal(outlined[48 * k - 1, 32 * k], second)
  np.testing.assert_array_equal(outlined[48 * k, 32 * k], [100] * 3)


def test_a_note_under_a_table_stands_outside_of_what_scrolls_sideways():
  html_ = Report("x").section("y").table(["a"], [[1]], "The note.").html()
  assert "</table></div><figcaption>The note.</figcaption>" in html_
