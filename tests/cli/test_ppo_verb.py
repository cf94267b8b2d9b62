"""What `vlm-jax ppo` makes of its options before the first step."""

import pytest

from vlm_jax.cli import main
from vlm_jax.commands.ppo import prompt_width
from vlm_jax.runs import loop


@pytest.mark.parametrize(
    ("limit", "longest", "width"), [(703, 640, 640), (703, 641, 703), (1024, 641, 704), (40, 33, 40), (200, 3, 64)]
)
def test_prompts_are_as_wide_as_the_longest(limit, longest, width):
    lengths = {"short": 2, "long": longest, "middle": 3}
    assert prompt_width(limit, list(lengths), lambda record: ([0] * lengths[record], [1])) == width


@pytest.mark.parametrize(("limit", "width"), [(200, 64), (40, 40)])
def test_a_run_pads_its_prompts_no_further(limit, width, checkpoint, world, reward, tmp_path, monkeypatch):
    seen = []

    def stop(run, pace, mesh, state, step, batches, milestones):
        seen.append(next(iter(batches)).prompt)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", stop)
    files = ["--prompts", world / "prompts.json", "--images", world / "images", "--out", tmp_path / "out"]
    judge = ["--reward", reward, "--facts", world / "image_to_caption.json", "--resolution", "24"]
    shape = ["--batch-size", 4, "--rollout-parts", 2, "--prompt-length", limit]
    with pytest.raises(SystemExit):
        main([*map(str, ["ppo", "--checkpoint", checkpoint, *files, *judge, *shape])])
    [prompt] = seen
    assert prompt.tokens.shape == (4, width)
    assert prompt.attention_mask[:, -1].all()
