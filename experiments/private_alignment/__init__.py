"""Gradient alignment in private training: the published filters, and what can be had privately.

Bani-Harouni et al., "Gradient Self-alignment in Private Deep Learning" (2023), drop the examples of
a sample whose noised gradient points away from the sample's mean. Their Table 1 uses the cosines as
they are, which is not private; accounted soundly, the fully private form costs far more than they
say (see `medjax.privacy.published`). Here both are measured, beside filters that are private.

  python -m experiments.private_alignment demo      simulated radiographs; about 3 minutes
  python -m experiments.private_alignment pneumonia --data pneumoniamnist.npz
  python -m experiments.private_alignment pneumonia --data CHEST_XRAY --source kermany
                                                    {train,test}/{NORMAL,PNEUMONIA}/*.jpeg; unit:
                                                    one person; --num_classes 3 tells bacteria from
                                                    viruses
  python -m experiments.private_alignment cifar10 --data cifar10.npz
  python -m experiments.private_alignment paper --data cifar10.npz
                                                    the paper's numbers; wants an accelerator
  python -m experiments.private_alignment paper_pneumonia --data CHEST_XRAY
  python -m experiments.private_alignment evidence --data pneumoniamnist.npz
  python -m experiments.private_alignment evidence_cifar10 --data cifar10_subset.npz
                                                    78 trainings of 10 epochs each; 40 minutes each

Times are for 2 CPU cores. An npz has train_images, train_labels, val_*, test_* as MedMNIST writes
them; --source class_folders reads {train,val,test}/CLASS/*.png.

The page shows Table 1 of the paper, its filters without privacy. Its private result is .698 +- .009
at epsilon 7.46 against .696 +- .002 at 6.97. No noise multiplier is published; .593 gives 6.97.

To train one private model on your own people, run one arm, one seed and one learning rate:
  ... --published --private dp-sgd --num_seeds 1 --learning_rates 0.2

results.json: data.{title, class_names, pictures, people, left_out}; tables.{published, private}
each with arms.<arm>.{accuracy, auroc} {mean, low, high: 95 % interval over seeds and pictures},
{accuracy, auroc}_by_seed, learning_rate, noise_multipliers, epsilon (PLD), epsilon_rdp,
passes_over_a_sample, flops_an_update (on one chunk), cosine (first table), trials {rate: validation
AUROC}, and comparison: rows of `study.against` DP-SGD for accuracy and AUROC, at equal updates and,
for the arms that cost what DP-SGD costs to 5 %, at equal compute. private/ keeps what names people.
"""

import dataclasses
from typing import Any

from experiments.private_alignment import pictures, report, scores
from experiments.private_alignment.training import Config, Run, Table, Task, fit
from medjax import cli, study

_PNEUMONIA = Config(source="npz", num_epochs=20)
_CIFAR10 = Config(
  source="npz",
  near_duplicates=0,
  widths=(32, 64, 64),
  num_epochs=10,
  threshold=0.1,
  dropped=0.7,
)
_PAPER: dict[str, Any] = dict(
  network="resnet9",
  widths=(64, 128, 256, 256),
  num_groups=32,
  published=("dp-sgd", "cosine", "magnitude", "std", "cov"),
  target_epsilon=6.97,
  delta=1e-6,
  accountant="rdp",
  log_every=200,
)
PRESETS = {
  "demo": Config(
    num_simulated=5000,
    near_duplicates=0,
    published=("dp-sgd", "cosine"),
    private=("dp-sgd", "public"),
    num_epochs=4,
    learning_rates=(0.2,),
  ),
  "pneumonia": _PNEUMONIA,
  "cifar10": _CIFAR10,
  "paper": Config(
    source="npz",
    near_duplicates=0,
    num_epochs=50,
    learning_rates=(0.005,),
    threshold=0.1,
    dropped=0.7,
    **_PAPER,
  ),
  "paper_pneumonia": Config(
    source="kermany", size=32, num_epochs=20, learning_rates=(0.001,), threshold=0, **_PAPER
  ),
  "evidence": dataclasses.replace(_PNEUMONIA, num_epochs=10, secrets="seed"),
  "evidence_cifar10": dataclasses.replace(_CIFAR10, secrets="seed"),
}


def build(config: Config, options: cli.RunOptions) -> None:
  multiple = 16 if config.network == "resnet9" else 1
  loaded = pictures.load(config, options.data, options.seed, multiple=multiple)
  with options.directory(config, loaded.manifest, private=True) as directory:
    if directory.finished:
      return
    directory.write_json("splits", loaded.splits, names_people=True)
    task = Task(config, loaded)
    trials: dict[Table, dict[str, list[Run]]] = {}
    trained: dict[Table, dict[str, list[Run]]] = {}
    wanted: dict[Table, tuple[str, ...]] = {
      "published": config.published,
      "private": config.private,
    }
    for table, arms in wanted.items():
      if not arms:
        continue
      trials[table], trained[table] = {}, {arm: [] for arm in arms}
      rates = dict.fromkeys(arms, config.learning_rates[0])
      for arm in arms if len(config.learning_rates) > 1 else ():
        trials[table][arm] = [
          fit(task, table, arm, rate, options.seed, directory, is_trial=True)
          for rate in config.learning_rates
        ]
        rates[arm] = scores.best(trials[table][arm], loaded.parts["validation"].label)
      for seed in range(options.seed, options.seed + config.num_seeds):
        for arm in arms:
          trained[table][arm].append(fit(task, table, arm, rates[arm], seed, directory))
    results = scores.results(task, trained, trials)
    runs = {table: [one for own in arms.values() for one in own] for table, arms in trained.items()}
    for table, own in runs.items():
      print(f"{table}: {own[0].plan.statement()}", flush=True)
    every = [one.trained for own in runs.values() for one in own]
    study.finish(directory, results, report.page(task, trained, results), trained=every)
