"""convert, export, merge and checkpoint show through the real command line."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlm_jax.cli import main


def run(*arguments):
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def converted(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("converted")
    run("convert", checkpoint, folder / "whole")
    run("convert", checkpoint, folder / "small", "--quantize", "int8")
    return folder


def test_convert_and_export_give_the_checkpoint_back(converted, checkpoint, tmp_path):
    run("export", converted / "whole", tmp_path / "hf")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "hf"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name])
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (checkpoint / name).read_text() == (tmp_path / "hf" / name).read_text()


def test_a_quantised_base_answers(converted, checkpoint, capsys):
    prompt = ["--prompt", "Describe the picture.", "--max-new-tokens", "5"]
    for folder in (checkpoint, converted / "whole", converted / "small"):
        run("generate", "--checkpoint", folder, *prompt)
    whole, again, small = capsys.readouterr().out.strip().splitlines()
    assert whole == again
    assert small


def test_show(converted, checkpoint, adapter, capsys):
    run("checkpoint", "show", converted / "small")
    out = capsys.readouterr().out
    assert "layout: our own" in out
    assert "quantised to int8; from" in out
    run("checkpoint", "show", checkpoint)
    assert "transformers' LLaVA" in capsys.readouterr().out
    run("checkpoint", "show", adapter)
    out = capsys.readouterr().out
    assert "layout: peft adapter" in out
    assert "rank 8, alpha 16.0" in out
    assert "a reward head beside it" in out


def test_merge_reports_what_it_changed(converted, checkpoint, adapter, tmp_path, capsys):
    run("merge", checkpoint, adapter, tmp_path / "merged")
    out = capsys.readouterr().out
    assert "the likeliest token stayed at 100.0 %" in out
    assert json.loads((tmp_path / "merged/vlm_jax.json").read_text())["source"]["layout"] == "merged"
    with pytest.raises(SystemExit):
        run("merge", converted / "small", adapter, tmp_path / "no")
    assert "found a quantised base" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_peft_export(adapter, tmp_path):
    run("export", adapter, tmp_path / "peft", "--layout", "peft")
    names = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert (tmp_path / "peft/reward_head.safetensors").is_file()


def test_an_original_layout_says_what_to_do(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "x"}))
    with pytest.raises(SystemExit):
        run("generate", "--checkpoint", tmp_path, "--prompt", "hi")
    assert "vlm-jax convert makes it" in capsys.readouterr().err
