"""Recipes: complete, of the right types, fit for their presets; the command line goes before them."""

import dataclasses
import json
from pathlib import Path

import pytest

from vlm_jax.cli import main
from vlm_jax.commands import annotate, ppo, reward, sft
from vlm_jax.commands.eval import scenes
from vlm_jax.commands.from_recipe import with_recipe
from vlm_jax.commands.reward_view import RewardView
from vlm_jax.config import PRESETS
from vlm_jax.errors import InputError
from vlm_jax.recipes import find, names, read

PLACES = {"checkpoint": "tiny", "out": Path("out"), "images": Path("images")}
VERBS = {
    "sft-lora": sft.Options(**PLACES, data=Path("data.json")),
    "sft-full": sft.Options(**PLACES, data=Path("data.json"), trainable="full"),
    "reward": reward.Options(**PLACES, preferences=Path("pairs.json")),
    "ppo": ppo.Options(**PLACES, reward=Path("reward"), prompts=Path("prompts.json")),
    "answer": annotate.Options(checkpoint="tiny", world=Path("world")),
}
COMPLETE = {"sft-lora": sft.complete, "sft-full": sft.complete, "reward": reward.complete, "ppo": ppo.complete}


def test_every_preset_has_a_recipe_for_every_stage():
    assert names() == sorted(f"{preset}/{stage}" for preset in PRESETS for stage in VERBS)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("facts", [None, Path("facts.json")])
def test_a_recipe_fills_in_everything_and_fits_its_preset(name, facts):
    preset, stage = name.split("/")
    options = dataclasses.replace(VERBS[stage], recipe=name)
    if stage in ("reward", "ppo"):
        options = dataclasses.replace(options, view=RewardView(facts=facts))
    found = COMPLETE.get(stage, lambda options: with_recipe(options, stage))(options)
    config = PRESETS[preset]
    figures = read(name).figures(facts is not None)
    given = dataclasses.asdict(found) | dataclasses.asdict(getattr(found, "view", RewardView()))
    for key, value in figures.items():
        assert given[key] == (tuple(value) if isinstance(value, list) else value), key
    longest = {
        "ppo": lambda: found.prompt_length + found.suffix_length + found.max_new_tokens,
        "answer": lambda: max(found.prompt_lengths) + found.max_new_tokens,
    }.get(stage, lambda: found.max_length)()
    assert config.vision.patches < longest <= config.language.max_positions
    if stage == "ppo":
        settings = ppo.settings_of(found)
        assert settings.optim.steps == found.steps * found.epochs * found.minibatches
        assert settings.optim.warmup_steps == 5 * found.epochs * found.minibatches


def test_an_evaluation_takes_the_same_figures():
    options = scenes.Options(checkpoint="tiny", world=Path("world"), output=Path("out.json"))
    assert with_recipe(options, "answer").max_new_tokens == read("scenes-tiny/answer").options["max_new_tokens"]


def test_what_is_given_goes_before_the_recipe(capsys):
    found = sft.complete(dataclasses.replace(VERBS["sft-lora"], learning_rate=0.5, lora_rank=3))
    assert (found.learning_rate, found.lora_rank, found.recipe) == (0.5, 3, "scenes-tiny/sft-lora")
    assert capsys.readouterr().out == "recipe scenes-tiny/sft-lora\n"
    # With everything given there is nothing to look up.
    whole = dataclasses.replace(found, checkpoint="nowhere", recipe=None)
    assert sft.complete(whole).learning_rate == 0.5
    assert capsys.readouterr().out == ""


def test_a_rank_of_ones_own(world, tmp_path, checkpoint):
    data = ["--data", world / "instructions.json", "--images", world / "images", "--out", tmp_path / "run"]
    main([str(one) for one in ("sft", "--checkpoint", checkpoint, *data, "--lora-rank", "2", "--epochs", "0.01")])
    adapter = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (2, 16)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["settings"]["lora_rank"] == 2
    assert record["settings"]["learning_rate"] == 1e-4
    assert record["options"]["recipe"] == "scenes-tiny/sft-lora"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[options]\nlearning_rat = 1", r"found learning_rat \(did you mean 'learning_rate'\?\); expected options of"),
        ("[options]\nlearning_rate = 1e-4", "found nothing on .*batch_size.*; expected it there, or --"),
        ("[options]\n[option]", r"found keys option; expected a table \[options\]"),
        ("learning_rate = 1", r"found keys learning_rate; expected a table \[options\]"),
        ("[options]\n[with_facts]\nb2 = 1", r"found b2 in \[with_facts\] alone"),
        ("[options", "found no TOML"),
    ],
)
def test_a_broken_recipe(text, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"mine\.toml: .*{said}"):
        sft.complete(dataclasses.replace(VERBS["sft-lora"], recipe=str(path)))


@pytest.mark.parametrize(("key", "value"), [("schedule", '"linear"'), ("batch_size", "1.5"), ("learning_rate", "true")])
def test_figures_of_another_type(key, value, tmp_path):
    lines = find("scenes-tiny/sft-lora").read_text().splitlines()
    changed = [f"{key} = {value}" if line.startswith(f"{key} ") else line for line in lines]
    (tmp_path / "mine.toml").write_text("\n".join(changed))
    with pytest.raises(InputError, match=rf"mine\.toml: found {key} = .*; expected {key} as "):
        sft.complete(dataclasses.replace(VERBS["sft-lora"], recipe=str(tmp_path / "mine.toml")))


def test_a_recipe_of_another_stage():
    full = dataclasses.replace(VERBS["sft-full"], recipe="llava-1.5-7b/sft-lora")
    with pytest.raises(InputError, match=r"found recipe llava-1\.5-7b/sft-lora; expected one of .*/sft-full"):
        sft.complete(full)


def test_a_named_recipe_is_read_though_nothing_is_left_out():
    whole = sft.complete(VERBS["sft-lora"])
    with pytest.raises(InputError, match="found recipe 'nonsense'"):
        sft.complete(dataclasses.replace(whole, recipe="nonsense"))


def test_a_warm_up_is_a_share_where_it_is_one():
    with pytest.raises(InputError, match="found --warmup 5; expected a share of the steps"):
        sft.complete(dataclasses.replace(VERBS["sft-lora"], warmup=5.0))
    with pytest.raises(InputError, match="found --warmup 5"):
        reward.complete(dataclasses.replace(VERBS["reward"], warmup=5.0))


def test_no_such_recipe():
    near = r"found recipe 'llava/sft' \(did you mean 'llava-1.5-7b/sft-lora'\?\); expected a \.toml file, or one of"
    with pytest.raises(InputError, match=near):
        sft.complete(dataclasses.replace(VERBS["sft-lora"], recipe="llava/sft"))


def test_a_checkpoint_of_no_preset_is_asked_for_a_recipe(checkpoint, tmp_path):
    (tmp_path / "odd").mkdir()
    for path in checkpoint.iterdir():
        (tmp_path / "odd" / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "odd/config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (tmp_path / "odd/config.json").write_text(json.dumps(config))
    odd = dataclasses.replace(VERBS["sft-lora"], checkpoint=str(tmp_path / "odd"))
    with pytest.raises(InputError, match=r"odd: found a checkpoint of no known preset.*--recipe with a file or one of"):
        sft.complete(odd)
    assert sft.complete(dataclasses.replace(odd, recipe="scenes-tiny/sft-lora")).batch_size == 32


def test_ranks_belong_to_adapters():
    with pytest.raises(InputError, match="--lora-rank or --lora-alpha with --trainable full"):
        sft.complete(dataclasses.replace(VERBS["sft-full"], lora_rank=8))


def test_list_and_show(capsys):
    main(["recipe", "list"])
    assert capsys.readouterr().out.splitlines() == names()
    main(["recipe", "show", "llava-rlhf-13b/ppo"])
    assert 'kl_estimator = "k1_clamped"  # released: cut at 0' in capsys.readouterr().out
    for wrong in (["list", "llava-rlhf-13b/ppo"], ["show"], ["show", "nothing"]):
        with pytest.raises(SystemExit) as stopped:
            main(["recipe", *wrong])
        assert stopped.value.code == 2


def test_a_recipes_number_out_of_range_is_the_recipes(tmp_path):
    text = find("scenes-tiny/sft-lora").read_text().replace("learning_rate = 1e-4", "learning_rate = -1.0")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=r"mine\.toml: found --learning-rate -1\.0; expected a number above 0"):
        sft.complete(dataclasses.replace(VERBS["sft-lora"], recipe=str(tmp_path / "mine.toml")))
