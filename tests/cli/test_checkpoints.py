"""convert, export, merge and checkpoint show through the real command line."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.checkpoints.export import export_adapter
from vlm_jax.checkpoints.native import map_native
from vlm_jax.cli import main
from vlm_jax.config import PRESETS
from vlm_jax.models.adapters import init_lora

TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "there is a cat."}]
ROW = {"id": "a", "conversations": TURNS}


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


def test_our_own_layout_is_not_converted_again(converted, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("convert", converted / "whole", tmp_path / "again", "--quantize", "nf4")
    assert "found a checkpoint in our own layout, converted already" in capsys.readouterr().err


def test_a_quantised_base_answers(converted, checkpoint, capsys):
    prompt = ["--prompt", "Describe the picture.", "--max-new-tokens", "5"]
    for folder in (checkpoint, converted / "whole", converted / "small"):
        run("generate", "--checkpoint", folder, *prompt)
    whole, again, small = capsys.readouterr().out.strip().splitlines()
    assert whole == again
    assert small


def test_show(converted, checkpoint, adapter, tmp_path, capsys):
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
    shutil.copytree(checkpoint, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    run("checkpoint", "show", tmp_path / "mute")
    out = capsys.readouterr().out
    assert "all tensors are there, but no tokenizer" in out
    assert "complete" not in out


def test_merge_reports_what_it_changed(converted, checkpoint, adapter, tmp_path, capsys):
    config, base = PRESETS["scenes-tiny"], map_native(converted / "whole")[1]
    shapes = jax.eval_shape(lambda: init_lora(config, jax.random.key(0)))
    lora = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.03, np.float32), shapes)
    save_adapter(tmp_path / "trained", config, {"lora": lora})
    run("merge", checkpoint, tmp_path / "trained", tmp_path / "merged")
    out = capsys.readouterr().out
    assert "merging changed the logits (float32) by " in out
    merged = map_native(tmp_path / "merged")[1]
    kernel, before = (np.asarray(tree["language"]["blocks"]["mlp"]["gate"]["kernel"]) for tree in (merged, base))
    np.testing.assert_allclose(kernel - before, config.lora.scale * config.lora.rank * 0.03**2, atol=1e-6)
    assert json.loads((tmp_path / "merged/vlm_jax.json").read_text())["source"]["layout"] == "merged"
    with pytest.raises(SystemExit):
        run("merge", converted / "small", adapter, tmp_path / "no")
    assert "found a quantised base" in capsys.readouterr().err
    training = ["--data", tmp_path / "none.json", "--images", tmp_path, "--out", tmp_path / "sft"]
    (tmp_path / "none.json").write_text(json.dumps([ROW]))
    with pytest.raises(SystemExit):
        run("sft", "--checkpoint", converted / "small", *training, "--trainable", "full", "--batch-size", "1")
    assert "found a quantised base; expected --trainable lora" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "values of base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight that are NaN or infinite"),
        (1e30, "kernel, layer 0 that are NaN or infinite after merging"),
    ],
    ids=["an adapter that diverged", "a sum too large"],
)
def test_what_is_not_finite_is_not_merged(value, reason, checkpoint, tmp_path, capsys):
    config = PRESETS["scenes-tiny"]
    shapes = jax.eval_shape(lambda: init_lora(config, jax.random.key(0)))
    lora = jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), shapes)
    save_adapter(tmp_path / "broken", config, {"lora": lora})
    with pytest.raises(SystemExit):
        run("merge", checkpoint, tmp_path / "broken", tmp_path / "merged")
    out, err = capsys.readouterr()
    assert reason in err
    assert "%" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_broken_adapter_is_not_converted(adapter, tmp_path, capsys):
    export_adapter(adapter, tmp_path / "broken", "hf")
    file = tmp_path / "broken/adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name][0, :3] = np.nan
    save_file(tensors, file)
    with pytest.raises(SystemExit):
        run("convert", tmp_path / "broken", tmp_path / "ours")
    assert (
        f"{file}: found 3 of {tensors[name].size} values of {name} that are NaN or infinite" in capsys.readouterr().err
    )
    assert not (tmp_path / "ours").exists()


def test_rows_that_are_left_out_are_told(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    # The last row of 512: whatever lies from the image token on is transformers' padding.
    (tmp_path / "hf/config.json").write_text(json.dumps(config | {"image_token_index": 511}))
    run("export", tmp_path / "hf", tmp_path / "original", "--layout", "llava", "--vision-tower", "clip")
    assert "note: rows 511 to 511 of the token tables" in capsys.readouterr().out
    assert load_file(tmp_path / "original/model.safetensors")["lm_head.weight"].shape[0] == 511


def test_peft_export(adapter, tmp_path):
    run("export", adapter, tmp_path / "peft", "--layout", "peft")
    names = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert (tmp_path / "peft/reward_head.safetensors").is_file()


def test_options_of_another_layout_are_refused(checkpoint, tmp_path, capsys):
    for layout, option in (("hf", "--peft-class=llava"), ("peft", "--dtype=float16"), ("hf", "--vision-tower=x")):
        with pytest.raises(SystemExit):
            run("export", checkpoint, tmp_path / "out", "--layout", layout, option)
        assert f"found {option.partition('=')[0]} with --layout {layout}" in capsys.readouterr().err


def test_weights_of_torch_are_merged_and_trained(checkpoint, adapter, world, tmp_path):
    """Not only read: runs on them also say which weights they stand on."""
    shutil.copytree(checkpoint, tmp_path / "hf")
    tensors = {name: torch.tensor(tensor) for name, tensor in load_file(tmp_path / "hf/model.safetensors").items()}
    torch.save(tensors, tmp_path / "hf/pytorch_model.bin")
    (tmp_path / "hf/model.safetensors").unlink()
    export_adapter(adapter, tmp_path / "policy", "llava")
    (tmp_path / "policy/reward_head.safetensors").unlink()
    run("merge", tmp_path / "hf", tmp_path / "policy", tmp_path / "merged")
    assert (tmp_path / "merged/weights.safetensors").is_file()
    training = ["--data", world / "instructions.json", "--images", world / "images", "--out", tmp_path / "sft"]
    run("sft", "--checkpoint", tmp_path / "hf", *training, "--batch-size", "8", "--epochs", "0.1")
    assert (tmp_path / "sft/adapter").is_dir()


def test_an_original_layout_says_what_to_do(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "x"}))
    with pytest.raises(SystemExit):
        run("generate", "--checkpoint", tmp_path, "--prompt", "hi")
    assert "vlm-jax convert makes it" in capsys.readouterr().err


def test_what_is_no_folder_is_not_converted(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for source, found in (
        (tmp_path / "model.gguf", "a file; "),
        ("someone/llava", "no such folder (nothing is"),
    ):
        with pytest.raises(SystemExit):
            run("convert", source, tmp_path / "ours")
        assert f"{source}: found {found}" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_named(checkpoint, tmp_path, capsys):
    config = PRESETS["scenes-tiny"]
    save_adapter(tmp_path / "run/adapter", config, {"lora": init_lora(config, jax.random.key(0))})
    (tmp_path / "file").touch()
    told = {
        "run/adapter": "found an adapter; expected --checkpoint with its base, and --adapter with this",
        "run": "found an adapter; expected --checkpoint with its base, and --adapter with this",
        "llava-hf/llava-1.5-7b-hf": "found no such folder (nothing is downloaded); expected a checkpoint's",
        "file": "found no such folder (nothing is downloaded); expected a checkpoint's",
    }
    for name, words in told.items():
        with pytest.raises(SystemExit, match="2"):
            run("generate", "--checkpoint", tmp_path / name, "--prompt", "hi")
        assert capsys.readouterr().err == f"vlm-jax generate: {tmp_path / name}: {words}\n"
