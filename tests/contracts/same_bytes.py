"""Compares a study with itself at another commit: the same flags, the same bytes.

  git worktree add ../before COMMIT
  python -m tests.contracts.same_bytes ../before NAME PRESET [--field value ...]

The study runs from scratch in the other checkout and in this one. Then this one resumes the other's
directory, whose results.json was taken away, as if it had been killed in its last moment. Exit
status 0: results.json, cases.csv, splits.json and metrics.jsonl are the same bytes in all three.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FILES = ("results.json", "cases.csv", "splits.json", "private/splits.json", "metrics.jsonl")
HERE = pathlib.Path(__file__).parent.parent.parent


def run(checkout: pathlib.Path, name: str, words: list[str], workdir: pathlib.Path) -> None:
  command = [sys.executable, "-m", f"experiments.{name}", *words, "--workdir", str(workdir)]
  environment = {**os.environ, "PYTHONPATH": str(checkout)}
  done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(f"{checkout}: {done.stdout[-2000:]}{done.stderr[-4000:]}")


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """Files that are not the same in both; a file that neither has is the same."""

  def content(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None

  return [name for name in FILES if content(one / name) != content(other / name)]


def main(before: str, name: str, *words: str) -> int:
  there, found = pathlib.Path(before).resolve(), 0
  root = pathlib.Path(os.environ.get("SAME_BYTES") or tempfile.mkdtemp())
  old, new, resumed = (root / part for part in ("old", "new", "resumed"))
  if not (old / "results.json").exists():
    run(there, name, list(words), old)
  if not resumed.exists():
    shutil.copytree(old, resumed)
    for folder in root.glob("old-data"):  # what a demo simulates beside its directory
      for copy in ("new-data", "resumed-data"):
        shutil.copytree(folder, root / copy, dirs_exist_ok=True)
    (resumed / "results.json").unlink()
    (resumed / "report.html").unlink()
  for what, path in (("from scratch", new), ("resumed", resumed)):
    run(HERE, name, list(words), path)
    wrong = differences(old, path)
    found += len(wrong)
    present = [file for file in FILES if (old / file).exists()]
    print(f"{name} {what}: {', '.join(wrong) + ' DIFFER' if wrong else f'{present} equal'}")
  return int(bool(found))


if __name__ == "__main__":
  raise SystemExit(main(*sys.argv[1:]))
