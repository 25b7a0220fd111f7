"""Trains nnU-Net for so many minutes and predicts; `minutes_to_dice` runs it in nnU-Net's Python.

  PYTHON nnunet_for_minutes.py FOLDER MINUTES      wants nnunetv2 2.8, and nothing of medjax

FOLDER/raw/Dataset001_Bench is a raw data set with splits.json beside dataset.json. Writes
FOLDER/predicted, the label maps of imagesTs, and FOLDER/about.json: minutes (planning,
preprocessing and training), updates, seconds_a_case. An epoch has ten updates and one look at the
validation people, so that the clock is read often.
"""

import importlib
import json
import os
import pathlib
import sys
import time
from typing import Any


def main(folder: pathlib.Path, minutes: float) -> None:
  began = time.perf_counter()
  for name in ("raw", "preprocessed", "results"):
    (folder / name).mkdir(exist_ok=True)
    os.environ[f"nnUNet_{name}"] = str(folder / name)
  os.environ["nnUNet_compile"] = "f"
  raw = folder / "raw" / "Dataset001_Bench"
  torch: Any = importlib.import_module("torch")
  planning: Any = importlib.import_module("nnunetv2.experiment_planning.plan_and_preprocess_api")
  base: Any = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer

  planning.extract_fingerprints([1], num_processes=1)
  planning.plan_experiments([1])
  planning.preprocess([1], configurations=("3d_fullres",), num_processes=(1,))
  ready = folder / "preprocessed" / raw.name
  (ready / "splits_final.json").write_text((raw / "splits.json").read_text())

  class Enough(Exception):
    """The minutes are used up."""

  class Trainer(base):
    """nnU-Net's trainer with the clock in place of its number of epochs."""

    def on_train_epoch_start(self) -> None:
      super().on_train_epoch_start()
      left = max(1 - (time.perf_counter() - began) / (60 * minutes), 0.0)
      for group in self.optimizer.param_groups:
        group["lr"] = self.initial_lr * left**0.9

    def on_epoch_end(self) -> None:
      super().on_epoch_end()
      if time.perf_counter() - began > 60 * minutes:
        raise Enough

  Trainer.__name__ = base.__name__  # by this name the weights are loaded again
  plans = json.loads((ready / "nnUNetPlans.json").read_text())
  plans["continue_training"] = False  # as nnU-Net's own command hands it over
  about = json.loads((raw / "dataset.json").read_text())
  trainer = Trainer(plans, "3d_fullres", 0, about, device=torch.device("cpu"))
  trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 10, 1
  trainer.save_every = 10**9
  try:
    trainer.run_training()
  except Enough:
    trainer.on_train_end()
  taken = (time.perf_counter() - began) / 60

  predictor = importlib.import_module("nnunetv2.inference.predict_from_raw_data").nnUNetPredictor(
    perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
  )
  trained = trainer.output_folder_base
  predictor.initialize_from_trained_model_folder(trained, (0,), "checkpoint_final.pth")
  start = time.perf_counter()
  predictor.predict_from_files(
    str(raw / "imagesTs"),
    str(folder / "predicted"),
    num_processes_preprocessing=1,
    num_processes_segmentation_export=1,
  )
  num_cases = len(list((folder / "predicted").glob("*" + about["file_ending"])))
  found = {
    "minutes": taken,
    "updates": 10 * trainer.current_epoch,
    "seconds_a_case": (time.perf_counter() - start) / max(num_cases, 1),
    "batch_size": trainer.batch_size,
    "patch": list(trainer.configuration_manager.patch_size),
  }
  (folder / "about.json").write_text(json.dumps(found))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]).resolve(), float(sys.argv[2]))
