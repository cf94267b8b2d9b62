"""What the library of tokenizers has to say does not greet the user, unless it is an error."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As where nobody has installed it.
WITHOUT_TORCH = """
import importlib.util, os, sys
sys.modules["torch"] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] == "torch" else found(name, *more)
os.environ.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS", None)
from pathlib import Path
"""


def python(code, *arguments):
    line = [sys.executable, "-c", WITHOUT_TORCH + code, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_no_word_of_pytorch_and_none_of_lengths():
    code = """
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.data.encoding import encode_texts
from vlm_jax.data.tokenizers import load_tokenizer
tokenizer = load_tokenizer(TINY)
print(len(encode_texts(tokenizer, [" ".join(["ball"] * 600)])[0]), tokenizer.model_max_length)
assert "TRANSFORMERS_NO_ADVISORY_WARNINGS" not in os.environ
import transformers
transformers.logging.get_logger("transformers.ours").warning("of interest")
"""
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "600 512\n")
    # Its other warnings come.
    assert done.stderr == "[transformers] of interest\n"


KNOWN_BY_NOBODY = """
import shutil
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.data.tokenizers import load_tokenizer
folder = Path(sys.argv[1])
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(TINY / name, folder)
(folder / "config.json").write_text('{"model_type": "llava_llama"}')
"""


def test_no_word_of_a_kind_of_model_that_the_library_does_not_know(tmp_path):
    later = "transformers.logging.get_logger('transformers.configuration_utils').warning('of interest')"
    done = python(f"{KNOWN_BY_NOBODY}load_tokenizer(folder); import transformers; {later}", tmp_path)
    assert done.stderr == "[transformers] of interest\n"
    alone = "import transformers; transformers.AutoTokenizer.from_pretrained(folder)"
    assert "model of type `llava_llama`" in python(KNOWN_BY_NOBODY + alone, tmp_path).stderr


def test_the_library_would_have_greeted():
    assert "PyTorch was not found" in python("import transformers").stderr


def test_errors_are_told(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    code = "from vlm_jax.data.tokenizers import load_tokenizer; load_tokenizer(Path(sys.argv[1]))"
    done = python(code, tmp_path)
    assert done.returncode == 1
    assert "no tokenizer that can be read" in done.stderr
