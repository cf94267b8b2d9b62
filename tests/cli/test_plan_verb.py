"""``vlm-jax plan`` on the command line."""

import json

import pytest

from vlm_jax.cli import main

SFT = ["plan", "--preset", "llava-1.5-7b", "--stage", "sft-lora", "--topology"]


def figures(capsys, *arguments):
    main([*SFT, *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_figures_as_json(capsys):
    found = figures(capsys, "v5e-4")
    assert set(found) == {"fits", "arguments_gib", "temporaries_gib", "limit_gib", "seconds", "bound"}
    assert found["fits"] is False
    assert found["limit_gib"] == 15.75
    assert figures(capsys, "v5e-4", "--microbatches", "8")["fits"] is True


def test_what_to_change_is_said_and_true(capsys):
    main([*SFT, "v5e-4"])
    said = capsys.readouterr().out
    assert "does NOT fit: " in said
    assert "what the backward pass keeps" in said
    *_, last = said.splitlines()
    assert last == "  fits with --microbatches 4, or --topology v5e-16"
    assert figures(capsys, "v5e-4", "--microbatches", "4")["fits"]
    assert not figures(capsys, "v5e-4", "--microbatches", "2")["fits"]
    assert figures(capsys, "v5e-16")["fits"]


def test_gpus_and_other_bases(capsys):
    main(["plan", "--preset", "llava-rlhf-7b", "--stage", "sft-lora", "--topology", "h100x1", "--rows", "8"])
    wide = capsys.readouterr().out
    assert "on h100x1 (data 1 x fsdp 1 x tensor 1)" in wide
    found = figures(capsys, "h100x1", "--rows", "8", "--microbatches", "8", "--base", "nf4")
    assert found["fits"]
    assert found["arguments_gib"] < figures(capsys, "h100x1", "--rows", "8", "--base", "int8")["arguments_gib"]


def test_a_whole_step_of_ppo_takes_as_long_as_its_two_halves(capsys):
    main(["plan", "--preset", "llava-rlhf-7b", "--stage", "ppo", "--topology", "v5e-16", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 10
    assert found["bound"] in ("compute", "memory", "network")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["v5e-17"], "found topology 'v5e-17' (did you mean 'v5e-1'?); expected one of v4-8, "),
        (
            ["v5e-64", "--mesh.fsdp", "64", "--rows", "32"],
            "found 32 rows in 1 microbatches on a mesh of 1 x 64 x 1 (data x fsdp x tensor); expected microbatches of "
            "a multiple of 64 rows (data x fsdp)",
        ),
        (["v5e-16", "--mesh.fsdp", "8"], "on 16 chips; expected 16 in all"),
        (["v5e-16", "--microbatches", "3"], "found a batch of 128 in 3 microbatches; expected parts of equal size"),
        (["v5e-16", "--max-new-tokens", "8"], "found --max-new-tokens with --stage sft-lora; expected figures of"),
        (["v5e-16", "--preset", "llava-1.5-8b"], "found preset 'llava-1.5-8b' (did you mean 'llava-1.5-7b'?)"),
        (["v5e-16", "--stage", "sft-full", "--base", "nf4"], "found --base nf4 with --stage sft-full; expected a base"),
    ],
)
def test_mistakes(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*SFT, *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
