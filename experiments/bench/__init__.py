"""Micro-benchmarks of single pieces, and peers of other libraries; each file is a command.

distance_bench    distance transforms beside SciPy's and edt's
monai_peer        MONAI's surface metrics
opacus_peer       Opacus' clipped gradients
torch_step_peer   the plain step of the same U-Net in PyTorch
torchjd_peer      torchjd's engine for inner products of gradients
gramian_bench     inner products of gradients without the gradients
run_axis          many small trainings in one program
gradient_scores   choosing examples by their gradients
growth            exponents of time and memory in every size of a step
steady            feeding from the disk, and memory over thousands of steps
correlated_noise  correlated noise against DP-SGD at equal epsilon

What a whole step costs is in `experiments.throughput`, which these share their measuring with.
"""
