"""The table of studies: a further one is one more row, and every shared property runs on it."""

from types import ModuleType
from typing import NamedTuple

from experiments import (
  avit,
  boosted_tables,
  cellfinet,
  cemb_sam,
  classification,
  click_sam,
  clinics,
  condistfl,
  continual_gen,
  ctan,
  disbelieve,
  ebm_biomarkers,
  fed_cot,
  fed_mas,
  fedautomri,
  fseft,
  fusestyle,
  gaze_report,
  gdd_fl,
  gpc,
  gpt4mia,
  map,
  meldd,
  mt_cool,
  prototypes,
  report_generation,
  sam_path,
  samaug,
  sampot,
  serial_sections,
  splitfed,
  surgical_sam,
  test_time_selection,
  universeg,
  unlearning,
  vae_dg,
  visual_concepts,
)


class Row(NamedTuple):
  """A study in seconds.

  Attributes:
    name: of the study.
    module: its module, with PRESETS, build, QUESTIONS and a docstring.
    flags: after the preset: all arms, one seed, a few updates.
    metric: by which its arms are told apart.
    alike: arms that may have the scores of another one.
    preset: whose other fields are taken.
    trains: whether there are trainings, with log rows and checkpoints.
  """

  name: str
  module: ModuleType
  flags: str
  metric: str
  alike: tuple[str, ...] = ()
  preset: str = "demo"
  trains: bool = True


ROWS = (
  Row(
    "classification",
    classification,
    "--num_pictures 40 --size 8 --widths 4 4 --num_steps 30 --num_seeds 1 --eval_every 15"
    " --log_every 15 --learning_rate 0.03",
    "auroc",
  ),
  Row(
    "fusestyle",
    fusestyle,
    "--num_pictures 30 --size 8 --widths 4 4 --num_steps 30 --num_seeds 1 --eval_every 15"
    " --log_every 15 --learning_rate 0.03 --left_out XR CS",
    "auroc",
  ),
  Row(
    "map",
    map,
    "--num_pictures 12 --num_steps 22 --size 16 --widths 4 4 --num_seeds 1 --eval_every 11"
    " --log_every 11 --num_mixtures 2",
    "dice",
  ),
  Row(
    "continual_gen",
    continual_gen,
    "--num_steps 20 --widths 40 20 --num_seeds 1 --log_every 10 --groupings 1 2",
    "accuracy",
  ),
  Row(
    "vae_dg",
    vae_dg,
    "--num_pictures 40 --size 16 --widths 4 4 --num_steps 30 --num_seeds 1 --eval_every 15"
    " --log_every 15 --learning_rate 0.03 --left_out old cold --latents 4",
    "accuracy",
  ),
  Row(
    "disbelieve",
    disbelieve,
    "--rules mean --attacks none lie disbelieve --num_people 180 --num_rounds 4 --num_seeds 1"
    " --local_steps 2 --log_every 2",
    "auroc",
  ),
  Row(
    "fed_cot",
    fed_cot,
    "--num_people 6 --shape 20 20 --widths 4 4 --num_rounds 2 --local_steps 4 --batch_size 4"
    " --num_seeds 1 --log_every 1",
    "dice",
    ("pseudo", "mean-teacher", "cot"),  # after so few updates agreement moves few voxels
  ),
  Row(
    "serial_sections",
    serial_sections,
    "--num_blocks 4 --num_layers 3 --num_points 60 --num_seeds 1 --num_iterations 4",
    "rmse",
    trains=False,
  ),
  Row(
    "mt_cool",
    mt_cool,
    "--arms joint independent vanilla mt-cool --num_pictures 40 --size 8 --widths 4 4"
    " --single_widths 3 3 --num_steps 20 --num_seeds 1 --log_every 10 --num_draws 2",
    "flatness",
  ),
  Row(
    "ctan",
    ctan,
    "--arms stl hps mtan ctan hps-mean hps-pcgrad --num_pictures 40 --size 8 --widths 4 4"
    " --num_steps 20 --log_every 10 --period 2 --learning_rate 0.02",
    "dice",
    ("hps-mean",),  # after so few updates the weights of losses move no pixel
  ),
  Row(
    "condistfl",
    condistfl,
    "--arms plain marginal condist --local_updates 10 --num_people 6 --num_updates 20 --shape 12 12"
    " --widths 4 4 --num_seeds 1 --batch_size 2 --learning_rate 0.05",
    "dice",
  ),
  Row(
    "condistfl",
    condistfl,
    "--arms plain marginal condist --local_updates 10 --num_people 6 --num_updates 20 --num_seeds 1"
    " --shape 8 12 12 --widths 4 4 --batch_size 2 --learning_rate 0.05",
    "dice",
    preset="volumes",
  ),
  Row(
    "gpt4mia",
    gpt4mia,
    "--num_seeds 1 --num_train 60 --num_known 60 --widths 4 --num_steps 20 --num_problems 32"
    " --num_reads 10 --num_rows 32 --read_width 8 --log_every 5",
    "balanced",
    ("reversed", "shuffled", "random", "random-balanced", "selected", "all"),
  ),
  Row(
    "gaze_report",
    gaze_report,
    "--arms image report-alone image-gaze prior --num_films 40 --size 8 --widths 4 4 --num_steps 20"
    " --log_every 10 --num_shown 1",
    "auroc",
  ),
  Row(
    "fed_mas",
    fed_mas,
    "--arms bsm kd mas --num_rounds 4 --num_seeds 1 --local_steps 2 --log_every 2"
    " --frozen_steps 10 --num_tests 3 --learning_rate 0.3",
    "balanced",
  ),
  Row(
    "fedautomri",
    fedautomri,
    "--num_seeds 1 --num_clients 2 --num_people 6 --size 12 --width 2 --num_unrolls 1"
    " --num_search_rounds 2 --num_rounds 2 --local_steps 1 --batch_size 2 --log_every 1"
    " --learning_rate 0.02",
    "psnr",
  ),
  Row(
    "gdd_fl",
    gdd_fl,
    "--arms random mean dsa dm dm-private gdd-features fedavg once --num_seeds 1 --num_clients 2"
    " --num_pictures 40 --size 8 --depth 1 --width 4 --num_updates 4 --num_server_steps 10"
    " --num_rounds 3 --local_steps 2 --real_batch 4 --batch_size 8 --num_networks 2 --log_every 2"
    " --learning_rate 0.02 --image_rate 0.3",
    "auroc",
  ),
  Row(
    "gpc",
    gpc,
    "--num_pictures 30 --size 8 --widths 4 4 --code 4 --num_steps 20 --num_seeds 1 --log_every 10"
    " --learning_rate 0.02 --batch_size 12",
    "accuracy",
  ),
  Row(
    "report_generation",
    report_generation,
    "--languages chinese --num_films 40 --size 16 --widths 4 4 --decoder_width 8 --num_layers 1"
    " --num_slots 2 --num_steps 20 --num_matches 10 --log_every 10 --num_variants 3",
    "graph_f1",  # in BLEU "reworded" and "denied" are equal to the last digit: the claim
    ("shuffled", "rewritten", "auxiliary", "memory", "prompt", "prompt-random", "full", "plain"),
  ),
  Row(
    "unlearning",
    unlearning,
    "--num_people 24 --num_rounds 6 --num_further 2 --local_steps 2 --log_every 2",
    "accuracy",
  ),
  Row(
    "visual_concepts",
    visual_concepts,
    "--shots 1 0 --num_seeds 2 --num_images 10 --num_kept 3 --num_steps 30",
    "balanced",
    trains=False,
  ),
  Row(
    "clinics",
    clinics,
    "--num_people 60 --num_rounds 2 --local_steps 3 --num_seeds 1 --log_every 1",
    "concordance",
  ),
  Row(
    "meldd",
    meldd,
    "--arms lesion context strangers context-site --num_patients 60 --num_folds 2 --num_seeds 1"
    " --num_steps 10 --width 8 --num_layers 1 --num_heads 2 --eval_every 5 --log_every 5"
    " --learning_rate 0.02",
    "auroc",
  ),
  Row(
    "cellfinet",
    cellfinet,
    "--arms tile-forest mean attention linear shuffled --num_bags 60 --num_seeds 1 --width 8"
    " --num_steps 20 --eval_every 10 --log_every 10",
    "auroc",
  ),
  Row(
    "ebm_biomarkers",
    ebm_biomarkers,
    "--num_people 60 --size 12 --num_seeds 1 --num_folds 2 --num_regions 3 --region_size 4"
    " --num_mapped 6 --widths 4 --width 4 --num_steps 10 --log_every 5 --num_bags 2"
    " --learning_rate 0.01",
    "auroc",
  ),
  Row(
    "prototypes",
    prototypes,
    "--arms plain class-weights low joint joint-low printed protopnet second pruned local-map"
    " shuffled-map centre-map --num_pictures 120 --size 16 --imbalance 4 --num_seeds 1 --widths 4 8"
    " --code 8 --num_prototypes 2 --num_steps 20 --second_steps 10 --batch_size 16 --log_every 5"
    " --num_mapped 6 --learning_rate 0.01",
    "auroc",
    ("local-map", "shuffled-map", "centre-map"),  # which have no class
  ),
  Row(
    "boosted_tables",
    boosted_tables,
    "--arms machine no-pairs logistic labels --num_seeds 1 --num_folds 2 --num_bags 1",
    "auroc",
    trains=False,
  ),
  Row(
    "test_time_selection",
    test_time_selection,
    "--arms plain copies noise background artefact --num_pictures 60 --size 12 --width 4"
    " --num_steps 20 --num_seeds 1 --log_every 10 --num_points 3 --num_copies 2 --biases 1",
    "auroc",
  ),
  Row(
    "splitfed",
    splitfed,
    "--arms none deep deep-near-loss --loss_rates 0.9 --num_seeds 1 --num_rounds 3 --local_steps 4"
    " --num_people 6 --shape 12 12 --widths 4 8 --log_every 1 --learning_rate 0.03",
    "dice",
  ),
  Row(
    "universeg",
    universeg,
    "--shots 1 2 --num_updates 20 --unet_updates 20 --size 16 --widths 4 4 --unet_widths 4 8"
    " --num_people 5 --num_slices 4 --num_shown 3 --num_support 2 --num_maps 20 --log_every 10"
    " --learning_rate 0.02",
    "dice",
    ("inclusive", "agnostic", "random", "shuffled"),  # after so few updates all may say "nothing"
  ),
  Row(
    "cemb_sam",
    cemb_sam,
    "--arms frozen decoder told-skip shuffled predicted --num_pictures 36 --num_pretraining 4"
    " --num_steps 3 --num_seeds 1 --log_every 1 --learning_rate 0.01",
    "dice",
    alike=("predicted", "decoder", "told-skip", "shuffled"),  # after so few updates all may miss
  ),
  Row(
    "avit",
    avit,
    "--arms frozen both private-both --num_unlabelled 24 --num_pictures 40 --num_pretraining 6"
    " --num_steps 6 --log_every 3 --size 16 --width 8 --num_layers 1 --learning_rate 0.02",
    "dice",
  ),
  Row(
    "fseft",
    fseft,
    "--arms general scratch full last probe adapter size size-released wrong-size --shots 1"
    " --num_seeds 2 --num_people 2 --num_queries 2 --shape 4 12 12 --widths 2 4 --num_updates 10"
    " --max_tunings 4 --log_every 5",
    "dice",
    ("general", "full", "last", "size", "size-released", "wrong-size", "adapter", "probe"),
  ),
  Row(
    "sampot",
    sampot,
    "--num_pictures 16 --num_pretraining 4 --num_steps 4 --num_candidates 2 --num_moves 2"
    " --num_seeds 1 --batch_size 4 --log_every 2 --validation_fraction 0.2 --widths 4 4",
    "dice",
    ("middle", "random", "sampot", "own", "trust"),  # after so few updates no click matters
  ),
  Row(
    "surgical_sam",
    surgical_sam,
    "--num_pictures 14 --num_pretraining 4 --num_steps 4 --corruptions noise brightness"
    " --num_seeds 1 --batch_size 2 --log_every 2 --severities 1 3 5",
    "dice",
    ("none", "point", "equal", "head", "classes", "boxed"),  # after so few updates all may miss
  ),
  Row(
    "click_sam",
    click_sam,
    "--arms frozen decoder modified random --num_pictures 8 --size 32 --num_clicks 3"
    " --num_corrections 2 --num_pretraining 2"
    " --num_steps 2 --batch_size 2 --log_every 1",
    "percent",
  ),
  Row(
    "sam_path",
    sam_path,
    "--num_pictures 8 --size 32 --num_pretraining 2 --num_corrections 1 --num_steps 6"
    " --batch_size 2 --log_every 2",
    "rating",
    ("untuned", "linear"),
  ),
  Row(
    "samaug",
    samaug,
    "--arms plain boxes boxes-both thresholds superpixels edges shuffled broken --num_pictures 8"
    " --num_pretraining 2 --num_steps 6 --log_every 3 --widths 4 4 --size 32 --num_boxes 3"
    " --train_fraction 0.5 --num_superpixels 10",
    "dice",
    # After two updates the segmenter may find no mask, and its priors are empty.
    ("plain", "boxes", "boxes-both", "shuffled", "broken"),
  ),
)
