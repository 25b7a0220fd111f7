"""CN-X2RG: reports that are written from chest films, in two languages, and scores that see denial.

Tang et al., "Generating Chinese Radiology Reports from X-Ray Images: A Public Dataset and an
X-ray-to-Reports Generation Method" (2023). An encoder and a decoder driven by a memory (R2Gen) get
a prompt from an encoder that was trained to match films and reports, a second head that names the
findings, and reports in other order and words. Claims: each part adds; BLEU cannot tell a denied
finding from another word, a graph read from the text can.

  python -m experiments.report_generation demo      800 drawn films, reports by a grammar in English
                                                    and Chinese, one seed; about 6 minutes
  python -m experiments.report_generation evidence  the same with 2 seeds, 800 updates and
                                                    3 beams; about 25 minutes
  python -m experiments.report_generation table --data films.csv --report TEXT --keywords effusion
                                                    your films (column image) and free reports;
                                                    their graph is which keywords are there or
                                                    denied; minutes grow with the reports

Times are for 2 CPU cores; extra `text`. Published (no table, only differences): the method over
R2GenCMN 1.0 BLEU-4, .66 METEOR and .55 ROUGE-L in percent.

Equal information: the head's findings and the graphs behind rewritten reports are read from the
training reports, and the prompt's encoder is trained on the same films and reports as the writer;
only the grammar's other words are new to it. Equal compute: all arms with a memory are one program;
a prompt costs its encoder's training beside it. Controls that the paper lacks: a prompt from an
encoder left at random, one report for all films, and a second writer who knows the true graph and
chooses own words, the most that a score of words can be asked for.

DEVIATIONS: small networks from scratch; the prompt's encoder, which MedCLIP was, sees no other
data. Patches stand in front of the words in one decoder, where R2Gen has an encoder and cross
attention; the memory and its norms are R2Gen's. Findings are about equally frequent, so none is
oversampled. The paper does not define its graph augmentation: here a report is read into its graph
and written anew from it. A grammar reads graphs without error where the paper trains CN-RadGraph.
Losses weigh alike. The vocabulary holds whole words: the grammar has 50, and a film never asks for
another, so a tokenizer into parts of words has nothing to do.

results.json: the common schema of `study.results`; roles are languages, and <language>-denied where
one word of each report with a finding was changed by hand. corpus.<language>.<arm>: BLEU-1 to -4 of
all test reports at once, mean over seeds; unread: sentences outside the grammar a report.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import report_grammar as grammar
from experiments import report_keywords, report_page, reported_films, text_scores
from experiments.report_writers import Problem, Writer
from medjax import check, cli, data, study

_LANGUAGES = {**grammar.LANGUAGES, "own": None}  # "own": a table of films and reports

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Networks that write a report of a film, with and without the parts of CN-X2RG."""

  arms: tuple[str, ...] = ()  # what is compared, () for all
  languages: tuple[str, ...] = ("english", "chinese")  # each has networks of its own
  report: str = "report"  # column of a table with the text
  subject: str = ""  # column of a table with the person; "": each film is a person
  keywords: tuple[str, ...] = ()  # findings in the words of your reports
  denials: tuple[str, ...] = ("no", "not", "without", "未", "无", "没有")  # what denies them
  num_films: int = 800  # drawn films, each of a person of their own
  size: int = 32  # side of a film in pixels
  widths: tuple[int, ...] = (16, 32, 32)  # channels of the encoders' convolutions
  decoder_width: int = 32  # channels of a word, a multiple of 4
  num_layers: int = 2  # of the decoder
  num_slots: int = 3  # rows of the memory
  num_beams: int = 1  # texts that the search keeps
  num_variants: int = 8  # forms of a training report that are drawn from
  num_seeds: int = 1
  num_steps: int = 400  # updates of a writer
  num_matches: int = 300  # updates of the encoders that match films and reports
  batch_size: int = 16  # films an update
  learning_rate: float = 3e-3  # Adam's, of all networks

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms or tuple(ARMS), ARMS)
    study.chosen("languages", self.languages, _LANGUAGES)


# --- arms

ARMS = study.arms(
  study.Arm("plain", "encoder and decoder without a memory", lambda: Writer(has_memory=False)),
  study.Arm("memory", "with a memory that drives the norms: R2Gen, the base", Writer),
  study.Arm("prompt", "and a prompt trained to match reports", lambda: Writer(prompt="learnt")),
  study.Arm(
    "prompt-random",
    "and a prompt from random weights: the control",
    lambda: Writer(prompt="random"),
  ),
  study.Arm("auxiliary", "base and a head that names findings", lambda: Writer(is_told=True)),
  study.Arm("shuffled", "base; sentences in any order", lambda: Writer(is_shuffled=True)),
  study.Arm("rewritten", "base; reports anew from graphs", lambda: Writer(is_rewritten=True)),
  study.Arm(
    "full", "base and all four parts: CN-X2RG", lambda: Writer(True, "learnt", True, True, True)
  ),
  study.Arm("one-for-all", "no film: the commonest training report for everyone", lambda: None),
  study.Arm("second-writer", "no network: the true graph in other words", lambda: None),
  study.Arm("reworded", "the reference, one degree in a word of equal meaning", lambda: None),
  study.Arm("denied", "the reference, the same word denying the finding", lambda: None),
)
_CHANGED = ("reworded", "denied")
_BY_GRAMMAR = ("rewritten", "full", "second-writer", *_CHANGED)

# --- questions, written down before the run


def _asked(language: str) -> tuple[study.Question, ...]:
  parts = ("prompt", "auxiliary", "shuffled", "rewritten")
  spread = (("subject", 0.2), ("seed", 0.02))
  rows: tuple[tuple[str, str, tuple[str, ...], str, Any], ...] = (
    ("Does the whole method beat its base?", "memory", ("full",), "graph_f1", "better"),
    ("Does it by words, too?", "memory", ("full",), "bleu", "better"),
    ("Does each part add?", "memory", parts, "graph_f1", "better"),
    ("Does each part add words?", "memory", parts, "bleu", "better"),
    ("Does the memory add?", "plain", ("memory",), "graph_f1", "better"),
    ("Is it what the prompt has learnt?", "prompt-random", ("prompt",), "graph_f1", "open"),
    ("Does the base read the film?", "one-for-all", ("memory",), "graph_f1", "open"),
    ("Does BLEU say so?", "one-for-all", ("memory",), "bleu", "open"),
  )
  denied = (
    ("Does BLEU miss a denial?", "bleu", "equivalent"),
    ("Does METEOR miss a denial?", "meteor", "equivalent"),
    ("Does graph F1 see a denial?", "graph_f1", "worse"),
  )
  return (
    *(
      study.Question(f"{text} ({language})", reference, arms, metric, language, expects, spread)
      for text, reference, arms, metric, expects in rows
    ),
    *(
      study.Question(
        f"{text} ({language})", "reworded", ("denied",), metric, f"{language}-denied", expects
      )
      for text, metric, expects in denied
    ),
  )


QUESTIONS = tuple(question for language in _LANGUAGES for question in _asked(language))

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_seeds=2, num_steps=800, num_matches=600, num_beams=3),
  "table": Config(
    arms=("plain", "memory", "prompt", "prompt-random", "auxiliary", "shuffled", "one-for-all"),
    languages=("own",),
    size=64,
    num_variants=4,
  ),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> reported_films.ReportedFilms:
  if options.preset != "table":
    study.paths_of(options.data, 0)
    return reported_films.drawn(config.num_films, config.size, options.seed)
  (path,) = study.paths_of(options.data, 1)
  names = ("report", "subject", "keywords", "denials")
  films = report_keywords.table(path, config.size, **{n: getattr(config, n) for n in names})
  written = [arm for arm in config.arms if arm in _BY_GRAMMAR]
  check.require(
    config.arms and not written,
    "arms that need no grammar",
    ", ".join(written) or "all",
    f"leave out {', '.join(_BY_GRAMMAR)}",
  )
  return films


def build(config: Config, options: cli.RunOptions) -> None:
  text_scores.text_scores("a", "a")  # a library that is missing is said before anything is trained
  films = load(config, options)
  arms = config.arms or tuple(ARMS)
  parts = study.parted(films.subjects, {"train": 0.6, "test": 0.4}, options.seed)
  people = study.people_by_part(films.subjects, parts)
  sick = [i for i in parts["test"] if films.states[i].any()]
  tested = {name: len(parts["test"]) for name in config.languages}
  tested |= {f"{name}-denied": len(sick) for name in config.languages}
  design = study.design(config, options.seed, QUESTIONS, arms, people, tested=tested)
  with options.directory(config, films.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    problem = Problem(config, films, parts["train"])
    writers = {arm: own for arm in arms if (own := ARMS[arm].make()) is not None}
    cells = [(seed, language) for seed in design.seeds for language in config.languages]
    learns = any(writer.prompt == "learnt" for writer in writers.values())
    matching = problem.match_jobs(parts["train"], cells if learns else [])
    one_each = study.train_jobs(list(matching.values()), directory, log_every=config.log_every)
    matched = dict(zip(matching, one_each, strict=True))
    jobs: dict[tuple[str, int, str], study.Job] = {}
    prompts: dict[tuple[str, int, str], np.ndarray] = {}
    for seed, language in cells:
      key = jax.random.key(seed)
      for arm, writer in writers.items():
        is_learnt = writer.prompt == "learnt"
        start = matched[seed, language].params if is_learnt else problem.matcher_start(key)
        prompts[arm, seed, language] = told = problem.prompts(start)
        store = problem.store(writer, language, parts["train"], told, options.seed)
        stream = data.batches(store, config.batch_size, key)
        step, params = problem.steps[writer.has_memory], problem.start(writer.has_memory, key)
        name = f"{arm}-{language}-{seed}"
        jobs[arm, seed, language] = study.Job(name, step, stream, params, key, config.num_steps)
    every = study.train_jobs(list(jobs.values()), directory, log_every=config.log_every)
    trained = dict(zip(jobs, every, strict=True))
    answers = {own: problem.answers(own) for own in {w.has_memory for w in writers.values()}}
    rows: list[dict[str, Any]] = []
    said: dict[tuple[str, int, str], list[str]] = {}
    for seed, language in cells:
      for arm in arms:
        places = sick if arm in _CHANGED else parts["test"]
        role = f"{language}-denied" if arm in _CHANGED else language
        cell = arm, seed, language
        if arm in writers:
          writer = writers[arm]
          store = problem.inputs(writer, places, prompts[cell])
          found = np.asarray(answers[writer.has_memory](trained[cell].params, store))
          said[cell] = [problem.words.text(own) for own in found]
        else:
          said[cell] = reported_films.without_network(arm, films, language, parts, seed)
        references = [films.texts[language][i] for i in places]
        names = [films.subjects[i] for i in places]
        about = {"arm": arm, "seed": seed, "role": role}
        rows += text_scores.rows_of_reports(
          said[cell], references, films.readings[language], names, about
        )
    flops = dict.fromkeys(arms, float("nan"))
    for arm, writer in writers.items():
      first = [jobs[arm, *cells[0]], *([matching[cells[0]]] if writer.prompt == "learnt" else [])]
      each = [study.flops(job.step, job.params, job.stream(0)) * job.num_steps for job in first]
      flops[arm] = sum(each) / config.num_steps
    corpus = {
      language: {
        arm: text_scores.corpus_scores([said[arm, seed, language] for seed in design.seeds], right)
        for arm in arms
        if arm not in _CHANGED
      }
      for language in config.languages
      for right in [[films.texts[language][i] for i in parts["test"]]]
    }
    found = design.results(
      rows,
      ("graph_f1", "lesion_f1", "bleu", "rouge_l", "meteor", "unread"),
      costs=flops,
      flops=flops,
      is_simulated=options.preset != "table",
      corpus=corpus,
    )
    kept = {arm: [one for cell, one in trained.items() if cell[0] == arm] for arm in writers}
    shown = {
      (language, place): {
        "the report": films.texts[language][i],
        **{arm: said[arm, design.seeds[0], language][place] for arm in arms if arm not in _CHANGED},
      }
      for language in config.languages
      for place, i in enumerate(parts["test"][:2])
    }
    networks = kept | ({"matcher": one_each} if learns else {})
    report = report_page.page(found, networks, shown, ARMS, _CHANGED)
    first = films.image[np.array(parts["test"][:2])]
    report.section("Films", "The two films of the reports above.")
    report.images([np.squeeze(film) for film in first], ["first film", "second film"], columns=2)
    study.finish(directory, found, report, trained=[*every, *one_each], rows=rows)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
