"""Reports and graphs agree exactly in both languages; words cannot see a denial and graphs can."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import report_generation, report_keywords, reported_films, text_scores
from experiments import report_grammar as grammar
from experiments.report_writers import Problem, Writer
from medjax.check import InputError
from medjax.data.seeds import generator
from medjax.metrics import graph_score
from medjax.types import IGNORE

LANGUAGES = pytest.mark.parametrize("language", grammar.LANGUAGES)
FILMS = reported_films.drawn(40, 16, seed=0)


@LANGUAGES
def test_every_sentence_has_one_meaning_and_every_meaning_comes_back(language):
  for text, statement in grammar.sentences(language).items():
    assert grammar.read(text, language) == ([statement], 0)
  assert {len(grammar.parted(text, language)) for text in grammar.sentences(language)} == {1}
  for index in range(200):  # states that no film here has, too
    random = generator(1, "states", index)
    said = grammar.statements(random.integers(0, 3, len(grammar.FINDINGS)))
    text = grammar.written(said, language, random)
    assert grammar.read(text, language) == (said, 0)


@LANGUAGES
def test_the_graph_of_a_report_is_that_of_its_film_and_augmentation_keeps_it(language):
  num_moved = num_other = 0
  for index, text in enumerate(FILMS.texts[language]):
    right = grammar.edges(grammar.statements(FILMS.states[index]))
    assert grammar.edges(grammar.read(text, language)[0]) == right
    random = generator(2, language, index)
    moved = grammar.shuffled(text, language, random)
    other = grammar.rewritten(text, language, random)
    for own in (moved, other):
      assert grammar.edges(grammar.read(own, language)[0]) == right
    # Shuffling changes the order alone, rewriting the words alone.
    assert sorted(grammar.parted(moved, language)) == sorted(grammar.parted(text, language))
    assert grammar.read(other, language)[0] == grammar.read(text, language)[0]
    num_moved, num_other = num_moved + (moved != text), num_other + (other != text)
  assert num_moved > 20 and num_other > 20


@LANGUAGES
def test_bleu_does_not_see_a_denial_and_graph_f1_does(language):
  pytest.importorskip("sacrebleu")
  sick = [i for i in range(len(FILMS.states)) if FILMS.states[i].any()]
  for index in sick:
    text = FILMS.texts[language][index]
    right = grammar.edges(grammar.read(text, language)[0])
    words, graphs = [], []
    for is_denied in (False, True):
      random = generator(3, language, index)
      own = grammar.one_word_changed(text, language, random, is_denied=is_denied)
      assert sum(a != b for a, b in zip(own.split(), text.split(), strict=True)) == 1
      words.append(text_scores.text_scores(own, text))
      graphs.append(graph_score(grammar.edges(grammar.read(own, language)[0]), right).f1)
    assert words[0]["bleu"] == words[1]["bleu"] and words[0]["rouge_l"] == words[1]["rouge_l"]
    assert abs(words[0]["meteor"] - words[1]["meteor"]) < 0.02
    assert graphs[0] == 1.0 and graphs[1] < 1 - 1 / len(right)


def test_scores_of_words_in_closed_form():
  pytest.importorskip("sacrebleu")
  # 3 of 4 words and 1 of 3 pairs agree, no triple and no four: smoothed to 1/2 and 1/4 of one each.
  found = text_scores.text_scores("右 肺 大量 积液", "右 肺 少量 积液")
  bleu = (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)
  # METEOR: 3 matches in 2 chunks; the mean of P = R = 3/4 less 1/2 (2/3)^3 of it.
  wanted = {"bleu": bleu, "rouge_l": 0.75, "meteor": 0.75 * (1 - 0.5 * (2 / 3) ** 3)}
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
  assert set(text_scores.text_scores("", "a").values()) == {0.0}
  np.testing.assert_allclose(list(text_scores.corpus_bleu(["a b c d"], ["a b c d"]).values()), 1)


def test_what_cannot_be_read_costs_precision():
  pytest.importorskip("sacrebleu")
  right = "no opacity . no effusion ."
  texts = [right, f"{right} effusion no opacity .", "no opacity ."]
  rows = text_scores.rows_of_reports(
    texts, [right] * 3, grammar.reading("english"), ["a", "b", "c"], {}
  )
  np.testing.assert_allclose([row["graph_f1/all"] for row in rows], [1, 4 / 5, 2 / 3])
  assert [row["unread/all"] for row in rows] == [0, 1, 0]
  assert [row["lesion_f1/all"] for row in rows] == [1, 1, 1]  # none was there and none was named


def test_free_reports_are_read_by_keywords_in_both_scripts(tmp_path):
  chinese = report_keywords.reading(["积液", "阴影"], ["未见", "无"])
  text = report_keywords.words_of("右肺阴影，密度不均。未见积液；心影无增大。")
  assert chinese.graph(text).edges == {("阴影", "present"), ("积液", "absent")}
  assert chinese.graph(text) == chinese.graph(chinese.shuffled(text, np.random.default_rng(0)))
  english = report_keywords.reading(["effusion", "upper lobe opacity"], ["no", "without"])
  for said, wanted in (
    ("No effusion.", {("effusion", "absent")}),
    ("Small effusion, no change.", {("effusion", "present")}),  # the denial is of something else
    ("Nodule. Effusion without upper lobe opacity", {("effusion", "present"),
                                                     ("upper lobe opacity", "absent")}),
    ("Effusions are hard to see.", set()),  # a keyword is a whole word
  ):  # fmt: skip
    assert english.graph(report_keywords.words_of(said)).edges == wanted, said
  lines = ["image,text,owner"]
  for index in range(4):
    pixels = np.random.default_rng(index).integers(0, 255, (16, 16)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    lines.append(f'{index}.png,"{("Effusion.", "No effusion.")[index % 2]}",p{index // 2}')
  (tmp_path / "films.csv").write_text("\n".join(lines))

  def table(*keywords):
    own = {"report": "text", "subject": "owner", "keywords": keywords, "denials": ("no",)}
    return report_keywords.table(tmp_path / "films.csv", 16, **own)

  films = table("effusion")
  assert films.texts["own"][:2] == ("effusion .", "no effusion .")
  assert films.states.tolist() == [[1], [0], [1], [0]] and films.subjects[:3] == ("p0", "p0", "p1")
  np.testing.assert_allclose(films.image.mean((1, 2, 3)), 0, atol=1e-5)
  with pytest.raises(InputError, match="a report that names a finding, got none with opacity"):
    table("opacity")
  with pytest.raises(InputError, match="keywords of findings"):
    table()
  (tmp_path / "films.csv").write_text("image,text,owner\n0.png,,p0")
  with pytest.raises(InputError, match="text"):
    table("effusion")


def test_bad_input_is_named():
  pytest.importorskip("sacrebleu")
  random = np.random.default_rng(0)
  with pytest.raises(InputError, match="a report with a finding, got none in 'no opacity .'"):
    grammar.one_word_changed("no opacity .", "english", random, is_denied=True)
  with pytest.raises(InputError, match="sentences of the grammar, got 1 others"):
    grammar.rewritten("no opacity . see above .", "english", random)
  with pytest.raises(InputError, match="a reference with words, got ' '"):
    text_scores.text_scores("no opacity .", " ")
  with pytest.raises(InputError, match="languages to be one of 'english', 'chinese'"):
    dataclasses.replace(report_generation.PRESETS["demo"], languages=("latin",))


def test_a_missing_library_names_the_extra():
  code = (
    "import sys; sys.modules['sacrebleu'] = None\n"
    "from experiments import text_scores; text_scores.text_scores('a', 'a')"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert "expected sacrebleu, got none; pip install 'medjax[text]'" in done.stderr


def test_arms_differ_in_what_they_are_told_alone():
  config = dataclasses.replace(
    report_generation.PRESETS["demo"], size=16, widths=(4, 4), num_variants=3
  )
  problem, prompts = Problem(config, FILMS, range(40)), np.ones((40, 4), np.float32)
  plain = problem.store(Writer(), "chinese", [3, 5], prompts, seed=0)
  assert (plain["named"] == IGNORE).all() and (plain["prompt"] == 0).all()
  assert (plain["texts"] == plain["texts"][:, :1]).all()
  every = problem.store(Writer(True, "learnt", True, True, True), "chinese", [3, 5], prompts, 0)
  np.testing.assert_array_equal(every["named"], FILMS.states[[3, 5]] > 0)
  assert (every["prompt"] == 1).all() and (every["image"] == plain["image"]).all()
  for k, index in enumerate((3, 5)):
    right = grammar.edges(grammar.statements(FILMS.states[index]))
    texts = [problem.words.text(own) for own in every["texts"][k]]
    assert texts[0] == FILMS.texts["chinese"][index] and len(set(texts)) > 1
    assert {grammar.edges(grammar.read(text, "chinese")[0]) for text in texts} == {right}
  shapes = [{name: x.shape for name, x in own.items()} for own in (plain, every)]
  assert shapes[0] == shapes[1]
