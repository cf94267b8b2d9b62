"""The script in README.md runs as it stands and prints what stands below it."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_script_of_the_readme(capsys, monkeypatch, tmp_path):
    section = README.read_text(encoding="utf-8").partition("## In a script\n")[2].partition("\n## ")[0]
    script, printed = re.findall(r"^```(?:python)?\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert len([line for line in script.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == printed
    assert not list(tmp_path.iterdir())
