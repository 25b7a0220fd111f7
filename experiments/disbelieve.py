"""DISBELIEVE: do robust rules notice wrong updates that lie as near as right ones?

Joshi et al., "Distance Between Client Models Is Very Essential for Effective Local Model Poisoning
Attacks" (2023): four of ten clients ascend the loss, but no further from their mean than they are
from each other. Claims: under DOS and Krum it leaves a lower AUROC than Min-Max, which leaves less
than LIE; the trimmed mean resists best.

  python -m experiments.disbelieve demo          simulated lesions, the paper's table, 2 seeds,
                                                 80 trainings; 22 minutes beside much other work,
                                                 most of it compilation
  python -m experiments.disbelieve evidence      16 seeds, 30 rounds, all rules, attacks and numbers
                                                 of wrong clients, 1,152 trainings; 46
                                                 minutes beside other work, 13 of the processor

Times are for 2 CPU cores. Published AUROC left on HAM10000 under DOS, trimmed mean, Krum: no
attack .72 .75 .70, LIE .70 .74 .70, Min-Max .61 .68 .58, DISBELIEVE .52 .70 .51. Controls that
could refute the claim: a random direction of the same length ("random"), and no attack ("none").
Beyond the paper: mixing of nearest neighbours and bucketing before a rule, and one to three wrong
clients in place of four. Each arm is trained twice: on clients with even shares of every class, and
on shares drawn from a Dirichlet law.

Departures: seven classes of features, as a frozen network gives them, and a perceptron with one
hidden layer stand for HAM10000; LIE's z is that of its paper, the attacks see the wrong clients
alone. Krum is used with 10 clients and f = 4, as in the paper, though its own condition 2 f + 2 < n
wants 11.

results.json: the common schema of `study.results`; arms are "rule/attack", roles the two splits.
"""

import dataclasses
from typing import Any

import numpy as np

from experiments import federations, poisoning
from experiments.poisoning import ATTACKS, RULES
from medjax import cli, federated, study

_SPLITS = {"even": 1e4, "uneven": 1.0}  # role -> alpha of the Dirichlet law

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Rules that join clients against attacks on them."""

  rules: tuple[str, ...] = ("mean", "krum", "trimmed", "dos")  # columns of the table
  attacks: tuple[str, ...] = ("none", "lie", "min-max", "random", "disbelieve")  # its rows
  num_seeds: int = 2
  num_clients: int = 10
  num_wrong: int = 4  # of the clients, known to the rules
  fewer_wrong: tuple[int, ...] = ()  # DISBELIEVE with so many wrong clients, under Krum and DOS
  num_people: int = 1200  # simulated people, one lesion each; a sixth of them test
  num_rounds: int = 15
  local_steps: int = 5  # updates of a client in a round
  batch_size: int = 16  # lesions a local update
  learning_rate: float = 0.1  # of the clients' gradient descent
  log_every: int = 5  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("rules", self.rules, RULES)
    study.chosen("attacks", self.attacks, ATTACKS)


# --- arms

_FEWER = [(f"{rule}/disbelieve-{f}", rule, f) for rule in ("krum", "dos") for f in (1, 2, 3)]
ARMS = study.arms(
  *(
    study.Arm(f"{r.name}/{a.name}", f"{a.meaning}; {r.meaning}", poisoning.Task.step)
    for r in RULES.values()
    for a in ATTACKS.values()
  ),
  *(
    study.Arm(name, f"{f} wrong up the loss; {RULES[rule].meaning}", poisoning.Task.step)
    for name, rule, f in _FEWER
  ),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.3), ("seed", 0.03))


def _asked(role: str) -> list[study.Question]:
  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    return study.Question(
      f"{text} ({role} clients)", reference, arms, "auroc", role, expects, _SPREAD
    )

  found = []
  for rule in ("dos", "krum"):
    own = f"{rule}/disbelieve"
    found += [
      question(
        f"Do LIE and Min-Max leave more than DISBELIEVE under {rule}?",
        own,
        (f"{rule}/lie", f"{rule}/min-max"),
        "better",
      ),
      question(
        f"Does the direction matter, or the length alone, under {rule}?",
        f"{rule}/random",
        (own,),
        "worse",
      ),
      question(
        f"Does the attack grow with the share of wrong clients under {rule}?",
        own,
        tuple(f"{own}-{f}" for f in (1, 2, 3)),
        "open",
      ),
    ]
  return [
    *found,
    question(
      "Do DOS and Krum resist less than the trimmed mean?",
      "trimmed/disbelieve",
      ("dos/disbelieve", "krum/disbelieve"),
      "worse",
    ),
    question(
      "Does mixing help the trimmed mean?",
      "trimmed/disbelieve",
      ("mixed-trimmed/disbelieve",),
      "open",
    ),
    question("Does bucketing help Krum?", "krum/disbelieve", ("bucketed-krum/disbelieve",), "open"),
  ]


QUESTIONS = tuple(question for role in _SPLITS for question in _asked(role))
PRESETS = {
  "demo": Config(),
  "evidence": Config(
    rules=tuple(RULES), num_seeds=16, num_rounds=30, fewer_wrong=(1, 2, 3)
  ),
}  # fmt: skip


def trained_arms(config: Config) -> dict[str, tuple[str, str, int]]:
  """Arm -> rule, attack and number of wrong clients."""
  found = {f"{r}/{a}": (r, a, config.num_wrong) for r in config.rules for a in config.attacks}
  fewer = [(name, rule, f) for name, rule, f in _FEWER if f in config.fewer_wrong]
  return found | {name: (rule, "disbelieve", f) for name, rule, f in fewer if rule in config.rules}


# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  source = poisoning.lesions(config.num_people, options.seed)
  arms = trained_arms(config)
  frame = federations.frame(
    config, options.seed, source, QUESTIONS, tuple(_SPLITS), arms, shares=(5 / 6, 1 / 6)
  )
  with options.directory(config, source.manifest()) as directory:
    if directory.finished:
      return
    train, test = frame.begin(directory)
    task = poisoning.Task(config.num_clients, config.learning_rate)
    predict = study.ChunkedPredictor(task.logits, chunk=256)
    subjects = frame.names(test)
    trained: dict[str, study.Trained] = {}
    rows: list[dict[str, Any]] = []
    held = {
      (role, seed): federated.dirichlet(train.label, config.num_clients, alpha, seed, least=8)
      for role, alpha in _SPLITS.items()
      for seed in frame.design.seeds
    }
    for arm, (rule, attack, wrong) in arms.items():
      step = task.step(rule, attack, wrong)
      jobs = [
        poisoning.attacked(
          federations.job(
            f"{arm}-{role}-{seed}".replace("/", "-"),
            step,
            task.model,
            train,
            own,
            seed=seed,
            num_rounds=config.num_rounds,
            batch_size=config.batch_size,
            local_steps=config.local_steps,
            weights=np.ones(config.num_clients),
          ),
          train,
          own,
          wrong,
        )
        for (role, seed), own in held.items()
      ]
      found = study.train_jobs(jobs, directory, log_every=config.log_every, progress=False)
      for one, (role, seed) in zip(found, held, strict=True):
        trained.setdefault(f"{arm}, {role}", one)
        about = {"arm": arm, "seed": seed, "role": role}

        def score(one: study.Trained = one, about: dict[str, Any] = about) -> study.Scored:
          logits = predict(one.params, test.image)
          return study.Scored(study.classes(logits, test.label, about=about, subjects=subjects))

        rows += study.kept(directory, one.name, one.params, score).rows
    found = frame.design.results(rows, ("auroc", "accuracy"), is_simulated=True)
    study.finish(
      directory, found, page(config, found, trained), trained=list(trained.values()), rows=rows
    )


def page(config: Config, found: dict[str, Any], trained: dict[str, study.Trained]) -> Any:
  """The table of rules against attacks, the share of wrong clients, verdicts and curves."""
  report = study.page.start("Wrong updates that look right", found)
  report.section(
    "AUROC that an attack leaves", "Rows: what the wrong clients send. Columns: how all are joined."
  )
  for role in _SPLITS:
    cells = [
      [a, *(found["arms"][f"{r}/{a}"][role]["auroc"]["mean"] for r in config.rules)]
      for a in config.attacks
    ]
    report.table(["attack", *config.rules], cells, f"{role.capitalize()} clients.")
  for rule in ("krum", "dos"):
    shares = [
      [role, f, found["arms"][name][role]["auroc"]["mean"]]
      for role in _SPLITS
      for f, name in [
        *((f, f"{rule}/disbelieve-{f}") for f in config.fewer_wrong),
        (config.num_wrong, f"{rule}/disbelieve"),
      ]
      if name in found["arms"]
    ]
    if config.fewer_wrong and shares:
      report.table(
        ["clients", "wrong", "AUROC"],
        shares,
        f"DISBELIEVE under {rule} by number of wrong clients.",
      )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  shown = {name: one for name, one in trained.items() if "/disbelieve," in name}
  study.page.curves(report, shown, {"loss": "mean loss of the clients"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
