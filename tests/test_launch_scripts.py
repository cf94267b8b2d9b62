"""Scripts that start runs on several hosts: read by shellcheck; the manifest's options exist."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from vlm_jax.cli import VERBS
from vlm_jax.commands import sft
from vlm_jax.commands.parsing import parse

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "tpu" / "launch", ROOT / "experiments" / "launch"
SCRIPTS = [path for folder in FOLDERS for path in sorted(folder.glob("*.s*"))]


def test_shellcheck_has_nothing_to_say():
    program = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    assert len(SCRIPTS) == 3
    assert program, "shellcheck, of the extra `test`"
    read = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert (read.returncode, read.stdout) == (0, "")


def test_the_manifest_starts_a_verb_with_options_of_it():
    (jobs,) = yaml.safe_load((FOLDERS[0] / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    program, verb, *arguments = container["command"]
    assert (program, verb in VERBS) == ("vlm-jax", True)
    options = parse(sft, verb, arguments)
    chips = job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert options.hosts.detect
    assert job["parallelism"] == job["completions"]
    assert options.mesh.data * options.mesh.fsdp * options.mesh.tensor == chips
