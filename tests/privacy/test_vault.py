"""Secrets and ledger survive anything and serve one run."""

import copy
import os
import pickle
import signal
import stat
import subprocess
import sys

import jax
import pytest

from medjax.check import InputError
from medjax.privacy import Vault
from medjax.privacy.trainings import Training


def mode(path):
  return stat.S_IMODE(os.stat(path).st_mode)


def bits(key):
  return tuple(jax.random.key_data(key).tolist())


def test_only_the_owner_reads_it(tmp_path):
  vault = Vault.open(tmp_path / "private")
  vault.noise_key(0)
  assert mode(tmp_path / "private") == 0o700
  files = list((tmp_path / "private").iterdir())
  assert {file.name for file in files} == {"secret", "ledger.json", "lock"}
  assert all(mode(file) == 0o600 for file in files)


def test_opened_again_it_draws_the_same(tmp_path):
  first = Vault.open(tmp_path / "v")
  key, seed, identity = bits(first.noise_key(4)), first.sampling_seed(4), first.identity
  first.close()
  again = Vault.open(tmp_path / "v")
  assert again.reserved == 5
  assert (bits(again.noise_key(4)), again.sampling_seed(4), again.identity) == (key, seed, identity)
  assert again.reserved == 5  # a step run again costs nothing: it draws the same


def test_two_vaults_share_nothing(tmp_path):
  one, two = Vault.open(tmp_path / "1"), Vault.open(tmp_path / "2")
  drawn = {bits(v.noise_key(t)) for v in (one, two, Vault.in_memory()) for t in range(5)}
  assert len(drawn) == 15
  assert one.identity != two.identity


def test_sample_and_noise_are_drawn_apart():
  vault = Vault.from_seed(3)
  assert vault.sampling_seed(0) != vault.sampling_seed(1)
  words = vault.sampling_seed(0).to_bytes(32, "big")[:8]
  assert bits(vault.noise_key(0)) != tuple(
    int.from_bytes(words[i : i + 4], "little") for i in (0, 4)
  )


def test_a_seed_is_no_secret():
  assert bits(Vault.from_seed(3).noise_key(0)) == bits(Vault.from_seed(3).noise_key(0))
  assert "not private once the seed is known" in Vault.from_seed(3).note
  assert Vault.in_memory().note == ""


def test_files_that_others_may_read_are_refused(tmp_path):
  Vault.open(tmp_path / "v").close()
  os.chmod(tmp_path / "v" / "secret", 0o644)
  with pytest.raises(InputError, match="mode 644"):
    Vault.open(tmp_path / "v")


def test_two_processes_cannot_hold_it(tmp_path):
  held = Vault.open(tmp_path / "v")
  with pytest.raises(InputError, match="for this process alone"):
    Vault.open(tmp_path / "v")
  held.close()
  held.close()
  Vault.open(tmp_path / "v")  # forgotten at once: the lock goes with it
  Vault.open(tmp_path / "v").close()


def test_a_process_that_ends_with_an_open_vault_ends_in_silence(tmp_path):
  code = "import sys; from medjax.privacy import Vault; v = Vault.open(sys.argv[1])"
  done = subprocess.run([sys.executable, "-c", code, tmp_path / "v"], capture_output=True)
  assert done.returncode == 0 and not done.stderr
  Vault.open(tmp_path / "v").close()


@pytest.mark.parametrize(
  ("name", "text"), [("secret", "abc"), ("ledger.json", '{"trainings": [{}]}')]
)
def test_damaged_files_are_refused(tmp_path, name, text):
  vault = Vault.open(tmp_path / "v")
  vault.noise_key(0)
  vault.close()
  (tmp_path / "v" / name).write_text(text)
  with pytest.raises(InputError, match=name):
    Vault.open(tmp_path / "v")


def test_a_lost_ledger_is_no_fresh_start(tmp_path):
  for name in ("ledger.json", "secret"):
    vault = Vault.open(tmp_path / name)
    vault.noise_key(0)
    vault.close()
    (tmp_path / name / name).unlink()
    with pytest.raises(InputError, match=name):
      Vault.open(tmp_path / name)


def test_a_process_killed_while_it_made_the_vault_made_none(tmp_path):
  vault = Vault.open(tmp_path / "v")
  identity = vault.identity
  vault.close()
  (tmp_path / "v" / "secret").unlink()  # the ledger is written first
  vault = Vault.open(tmp_path / "v")
  assert vault.reserved == 0 and vault.identity != identity


KILLED = """
import sys
from medjax.privacy import Vault
vault = Vault.open(sys.argv[1])
vault.bind(data="these")
for step in range(10 ** 9):
  vault.noise_key(step)
  print(step, flush=True)
"""


def test_a_killed_process_has_reserved_what_it_released(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED, tmp_path / "v"], stdout=subprocess.PIPE, text=True
  )
  with process:
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
  seen = max(int(line) for line in [*lines, *rest])
  vault = Vault.open(tmp_path / "v")
  assert vault.reserved in (seen + 1, seen + 2)  # at most one more than was seen
  with pytest.raises(InputError, match="the data that this vault"):
    vault.bind(data="other")


def test_a_copy_would_draw_the_same_noise_and_is_refused():
  for copied in (copy.copy, copy.deepcopy, pickle.dumps):
    with pytest.raises(InputError, match="one vault a secret"):
      copied(Vault.in_memory())


def test_folders_that_it_makes_are_its_owner_s_and_others_cannot_swap_it(tmp_path):
  Vault.open(tmp_path / "a" / "b" / "v").close()
  assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
  os.chmod(tmp_path / "a", 0o777)
  with pytest.raises(InputError, match="writable by its owner alone"):
    Vault.open(tmp_path / "a" / "v")


def test_each_training_has_samples_and_noise_of_its_own():
  vault = Vault.from_seed(0)
  drawn = []
  for _ in range(3):
    vault.begin(Training())
    drawn.append((vault.sampling_seed(1), bits(vault.noise_key(1)), vault.seal(1, b"")))
  assert len({x for row in drawn for x in row}) == 9
  vault.begin(vault.trainings[1], 1)
  assert (vault.sampling_seed(1), bits(vault.noise_key(1)), vault.seal(1, b"")) == drawn[1]
