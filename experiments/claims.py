"""The table of claims: what papers say, and what the records of our runs say of it.

A claim names the rows of a record that could refute it. It holds where every row has the verdict
that the paper expects, fails where one has the opposite verdict or is equivalent where a gain was
claimed, and is undecided otherwise; the smallest detectable difference says how much an undecided
row could have shown. On generated data no claim holds: the mechanism is shown, or it is not. The
seven studies that were written before `study.Question` are registered here; later ones state their
questions themselves, and their records carry them.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import catalogue
from medjax import check, files
from medjax.study.questions import Expected
from medjax.train import Report


class Claim(NamedTuple):
  """A statement of a paper, and where its test stands.

  Attributes:
    study: its name.
    text: what is claimed.
    where: entries that the rows of its test have; "in" is a part of the place in the record. ()
      where no record can test it.
    expects: the verdict that the paper expects.
    record: file name without its ending; "" takes the study's name.
    is_simulated: whether the data of the record are generated.
    needs: what a test would need, where there is none.
  """

  study: str
  text: str
  where: tuple[tuple[str, Any], ...] = ()
  expects: Expected = "better"
  record: str = ""
  is_simulated: bool = True
  needs: str = ""


class Judged(NamedTuple):
  """A claim with its verdict: `detectable` is the largest of its rows, NaN without any."""

  study: str
  text: str
  verdict: str
  detectable: float
  num_rows: int
  record: str


def _rows(**entries: Any) -> tuple[tuple[str, Any], ...]:
  return tuple((name.rstrip("_"), value) for name, value in entries.items())


CLAIMS = (
  Claim(
    "segmentation",
    "nnU-Net's augmentation is better than none (600 updates)",
    _rows(arm="augmented", reference="plain", column="equal updates"),
    is_simulated=False,
  ),
  Claim(
    "lscl",
    "The published curriculum beats one that raises random cells",
    _rows(arm="lscl-paper", reference="lscl-random", in_="questions"),
  ),
  Claim(
    "lscl",
    "The direction of the chain rule beats the published one",
    _rows(arm="lscl-chain", reference="lscl-paper", in_="questions"),
  ),
  Claim(
    "lscl",
    "A curriculum adds to strong augmentation",
    _rows(arm="augmented-lscl-chain", reference="augmented", in_="questions"),
  ),
  Claim("lscl", "LSCL is first among seven methods on M&Ms", needs="the M&Ms challenge"),
  Claim(
    "private_alignment",
    "At equal noise the published filters raise accuracy (not private)",
    _rows(
      column="accuracy, equal updates", in_="published", arm=("cosine", "magnitude", "std", "cov")
    ),
    is_simulated=False,
  ),
  Claim(
    "private_alignment",
    "A filter by past releases gains at equal epsilon",
    _rows(column="accuracy, equal updates", in_="private", arm=("public", "public-soft")),
    is_simulated=False,
  ),
  Claim(
    "private_alignment",
    "The filter with privately released cosines gains at equal epsilon",
    _rows(column="accuracy, equal updates", in_="private", arm="repaired"),
    is_simulated=False,
  ),
  Claim(
    "site_transfer",
    "With one target person MMTL beats the best baseline",
    _rows(question="few", size=1, metric="dice"),
  ),
  Claim(
    "site_transfer",
    "MMTL keeps the source",
    _rows(question="source", size=1, metric="dice"),
    "equivalent",
  ),
  Claim(
    "site_transfer",
    "OCTL beats its own step sizes without history",
    _rows(question="history", reference="octl-none", metric="dice"),
  ),
  Claim("site_transfer", "MMTL is first on CC359 with 90 slices", needs="CC359's download"),
  Claim(
    "ms_replay",
    "Replay ends above fine-tuning",
    _rows(arm="replay", column="equal updates", in_="against fine-tuning"),
  ),
  Claim(
    "ms_replay",
    "Replay reaches training on all centres at once",
    _rows(arm="replay", column="equal updates", in_="against multi-domain"),
    "equivalent",
  ),
  Claim(
    "ms_replay",
    "Replay with half of the weight ends above fine-tuning (2D)",
    _rows(arm="replay-weighted", column="equal updates", in_="against fine-tuning"),
    record="ms_replay_strategies",
  ),
  Claim("ms_replay", "The same on the private data of eight hospitals", needs="data not public"),
)


def judged(claims: Iterable[Claim], folder: pathlib.Path) -> list[Judged]:
  """The claims with the verdicts of the records in `folder`, in their order."""
  found = []
  for claim in claims:
    record, rows = claim.record or claim.study, []
    if claim.where:
      content = files.read_json(folder / f"{record}.json")
      every = catalogue.verdict_rows(content)
      rows = [row for place, row in every if _fits({**row, "in": place}, claim.where)]
      check.require(rows, f"rows for {claim.text!r} in {record}.json", "none", "mend the claim")
    verdict = verdict_of(rows, claim.expects, is_simulated=claim.is_simulated)
    if not rows:
      verdict, record = f"not testable here: needs {claim.needs}", ""
    found.append(_judged(claim.study, claim.text, verdict, rows, record))
  return found


def registered(folder: pathlib.Path) -> list[Judged]:
  """The questions that records of the common schema carry, in the order of the records."""
  found = []
  for path in sorted(folder.glob("*.json")):
    record = files.read_json(path)
    results = record.get("results", record)
    questions = results.get("questions", []) if isinstance(results, dict) else []
    if not any("expects" in row for row in questions):
      continue
    for text in dict.fromkeys(row["question"] for row in questions):
      rows = [row for row in questions if row["question"] == text]
      verdict = verdict_of(
        rows, rows[0]["expects"], is_simulated=results.get("is_simulated", False)
      )
      found.append(_judged(record.get("experiment", path.stem), text, verdict, rows, path.stem))
  return found


def verdict_of(rows: Sequence[Mapping[str, Any]], expects: str, *, is_simulated: bool) -> str:
  """One word or two for several rows.

  >>> better, tie = {"verdict": "better"}, {"verdict": "undecided", "equivalent": True}
  >>> verdict_of([better], "better", is_simulated=False)
  'holds'
  >>> verdict_of([tie], "better", is_simulated=True)
  'mechanism not shown'
  >>> verdict_of([better, {"verdict": "undecided"}], "better", is_simulated=False)
  'undecided'
  """
  words = ["equivalent" if row.get("equivalent") else row["verdict"] for row in rows]
  if expects == "open":
    return ", ".join(dict.fromkeys(words))
  if all(word == expects for word in words):
    return "mechanism shown" if is_simulated else "holds"
  if any(word not in (expects, "undecided") for word in words):
    return "mechanism not shown" if is_simulated else "fails"
  return "undecided"


def markdown(found: Sequence[Judged]) -> str:
  """The table as Markdown."""
  header = ["study", "claim", "verdict", "smallest detectable", "comparisons", "record"]
  lines = ["# Claims", "", _EXPLAINED, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
  for one in found:
    cells = [one.study, one.text, one.verdict, _number(one.detectable), str(one.num_rows)]
    lines.append(f"| {' | '.join([*cells, one.record or '-'])} |")
  return "\n".join(lines) + "\n"


def page(found: Sequence[Judged]) -> Report:
  """The table as a page."""
  counts = {word: sum(one.verdict.startswith(word) for one in found) for word in _WORDS}
  said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
  report = Report("Claims of papers, and what our runs say", f"{len(found)} claims: {said}.")
  report.section("Claims", _EXPLAINED)
  return report.table(
    ["study", "claim", "verdict", "smallest detectable", "comparisons", "record"],
    [[one.study, one.text, one.verdict, one.detectable, one.num_rows, one.record] for one in found],
  )


_WORDS = ("holds", "mechanism shown", "mechanism not shown", "fails", "undecided", "not testable")
_EXPLAINED = (
  "Written from the records by `python -m experiments claims`. Smallest detectable: the true"
  " difference that the design calls better 4 times in 5, the largest of the comparisons; an"
  " undecided claim could be true or false by less. Generated data show a mechanism or do not; they"
  " never make a claim hold."
)


def _judged(
  study: str, text: str, verdict: str, rows: Sequence[Mapping[str, Any]], record: str
) -> Judged:
  detectable = max((row["smallest_detectable"] for row in rows), default=float("nan"))
  return Judged(study, text, verdict, float(detectable), len(rows), record)


def _fits(row: Mapping[str, Any], where: Iterable[tuple[str, Any]]) -> bool:
  """Whether a row has the entries wanted; a tuple stands for any of its members."""
  for name, wanted in where:
    found = row["in"].split("/") if name == "in" else (row.get(name),)
    if not set(found) & set(wanted if isinstance(wanted, tuple) else (wanted,)):
      return False
  return True


def _number(value: float) -> str:
  return "-" if value != value else f"{value:.3f}"
