"""Words that no option knows, options that contradict each other, and options that would change nothing."""

from good_commands import Ground
from hostile_case import Case, instead, refused, said, written

_VERBS = ("sft", "reward", "ppo", "sample", "score", "generate", "annotate", "eval scenes", "eval pope")


def _more(verb: str, *words: str):
    line = instead(verb)
    return lambda ground: [*line(ground), *words]


def _policy(ground: Ground):
    return ground.shared.policy


CASES = [
    *(Case(verb, "unknown-option", _more(verb, "--such-thing", "1"), refused("--such-thing")) for verb in _VERBS),
    *(
        Case(verb, "option-without-value", _more(verb, "--seed"), refused("--seed"))
        for verb in ("demo", "scenes", "sft")
    ),
    *(
        Case(verb, "word-too-many", _more(verb, "more"), refused("more"))
        for verb in ("demo", "recipe", "checkpoint", "convert", "export", "merge", "generate")
    ),
    *(
        Case(verb, "nothing-at-all", lambda ground: [], refused("missing"))
        for verb in ("annotate", "sft", "reward", "ppo", "sample", "score", "generate", "convert", "export", "merge")
    ),
    *(
        Case(verb, "mesh-larger-than-the-machine", instead(verb, mesh__data=4096), refused("devices"), slow=slow)
        for verb, slow in (("generate", False), ("sft", True), ("score", True), ("annotate", True), ("merge", True))
    ),
    *(
        Case(verb, "preset-unknown", instead(verb, preset="llava-9"), refused("llava-9", "llava-1.5-7b"), slow=True)
        for verb in ("sft", "reward", "ppo", "generate", "eval scenes")
    ),
    *(
        Case(verb, "recipe-unknown", instead(verb, recipe="llava-9/sft"), refused("llava-9/sft"))
        for verb in ("sft", "reward", "ppo", "sample", "annotate", "eval scenes")
    ),
    *(
        Case(verb, "checkpoint-missing", instead(verb, checkpoint="nowhere"), refused("nowhere"), slow=place > 2)
        for place, verb in enumerate(("generate", "sft", "annotate", "reward", "ppo", "sample", "score", "eval scenes"))
    ),
    *(
        Case(verb, "batch-not-divisible", instead(verb, batch_size=3, microbatches=2), refused("equal size"))
        for verb in ("sft", "reward", "ppo")
    ),
    *(
        Case(verb, f"{option}-without-evaluation", instead(verb, **{option: value}), refused("--evaluate-every"))
        for verb, best in (("sft", "loss"), ("reward", "accuracy"), ("ppo", "reward"))
        for option, value in (("best", best), ("held_out_file", lambda ground: ground.folder / "rows.json"))
    ),
    *(
        Case(verb, "evaluation-on-nothing", instead(verb, evaluate_every=1), refused("--held-out-file"))
        for verb in ("sft", "reward", "ppo")
    ),
    *(
        Case(
            verb,
            "held-out-file-missing",
            instead(verb, evaluate_every=1, held_out_file="nowhere.json"),
            refused("nowhere.json"),
        )
        for verb in ("sft", "reward", "ppo")
    ),
    Case(
        "sft",
        "held-out-row-broken",
        instead("sft", evaluate_every=1, held_out_file=written("others.json", [{"conversations": 3}])),
        refused("others.json", "row 1"),
    ),
    Case("sft", "keep-all-weights", instead("sft", trainable="full", keep_every=1), refused("--keep-every")),
    Case(
        "sft",
        "best-of-all-weights",
        instead("sft", trainable="full", evaluate_every=1, held_out_file="x", best="loss"),
        refused("--best"),
    ),
    Case("sft", "best-by-no-metric", instead("sft", best="accuracy"), refused("--best")),
    Case("sft", "keep-never", instead("sft", keep_every=0), refused("--keep-every")),
    Case("sft", "profile-of-nothing", instead("sft", profile=0), refused("--profile")),
    Case("sft", "dtype-unknown", instead("sft", dtype="float8"), refused("--dtype", "float8")),
    Case("sft", "trainable-unknown", instead("sft", trainable="Lora"), refused("--trainable", "Lora")),
    Case("sft", "rank-of-all-weights", instead("sft", trainable="full", lora_rank=4), refused("--trainable")),
    Case("sft", "recipe-of-another-stage", instead("sft", recipe="scenes-tiny/ppo"), refused("scenes-tiny/ppo")),
    Case("sft", "warmup-of-two-runs", instead("sft", warmup=2), refused("--warmup")),
    Case(
        "reward", "verdict-twice-the-same", instead("reward", verdict=("Yes", "Yes")), refused("--verdict"), slow=True
    ),
    Case("reward", "verdict-empty", instead("reward", verdict=("", "")), refused("--verdict"), slow=True),
    Case("reward", "all-held-out", instead("reward", held_out=2), refused("--held-out")),
    Case("reward", "batch-above-the-pairs", instead("reward", batch_size=64), refused("--batch-size")),
    Case("ppo", "minibatches-that-do-not-divide", instead("ppo", minibatches=3), refused("equal size")),
    Case("ppo", "a-policy-as-reward", instead("ppo", reward=_policy), refused("policy"), slow=True),
    Case("ppo", "a-reward-as-policy", instead("ppo", policy=lambda g: g.shared.reward), refused("reward"), slow=True),
    Case(
        "ppo", "facts-that-were-not-learnt", instead("ppo", facts=lambda g: g.write("f.json", {})), refused("--facts")
    ),
    Case("score", "a-policy-as-reward", instead("score", reward=_policy), refused("policy"), slow=True),
    Case("score", "resolution-of-another-training", instead("score", resolution=7), refused("resolution")),
    Case("sample", "facts-without-reward", instead("sample", facts="f.json"), refused("--facts", "--reward")),
    Case("sample", "n-0", instead("sample", n=0), refused("--n")),
    Case(
        "generate", "a-reward-model", instead("generate", adapter=lambda g: g.shared.reward), refused("head"), slow=True
    ),
    Case("generate", "temperature-too-small", instead("generate", temperature="1e-30"), refused("temperature")),
    Case("plan", "no-such-preset", instead("plan", preset="llava-9"), refused("llava-9", "scenes-tiny")),
    Case("plan", "no-such-topology", instead("plan", topology="h100x7"), refused("h100x7", "h100x8")),
    Case(
        "plan",
        "rows-that-do-not-divide",
        instead("plan", topology="h100x8", mesh__fsdp=8, rows=12),
        refused("multiple of 8"),
    ),
    Case("plan", "more-chips-than-there-are", instead("plan", mesh__fsdp=8), refused("8")),
    Case("recipe", "show-nothing", lambda ground: ["show"], refused("recipe show NAME")),
    Case("recipe", "list-one", lambda ground: ["list", "scenes-tiny/ppo"], refused("scenes-tiny/ppo")),
    Case("recipe", "tell", lambda ground: ["tell"], refused("tell")),
    Case("recipe", "path-out-of-the-package", instead("recipe", 1, "../config"), refused("../config")),
    Case("recipe", "list", lambda ground: ["list"], said("scenes-tiny/ppo\n")),
    Case("checkpoint", "hide", instead("checkpoint", 0, "hide"), refused("hide")),
    Case("convert", "of-ours", lambda ground: [ground.shared.converted, ground.out], refused("already"), slow=True),
    Case("convert", "quantize-unknown", instead("convert", quantize="int3"), refused("int3")),
    Case(
        "convert",
        "quantize-an-adapter",
        instead("convert", 0, lambda ground: ground.shared.policy, quantize="int8"),
        refused("--quantize"),
    ),
    Case("convert", "onto-itself", instead("convert", 1, lambda ground: ground.shared.policy), refused("exists")),
    Case("export", "layout-unknown", instead("export", layout="onnx"), refused("onnx")),
    Case("export", "a-base-as-peft", instead("export", layout="peft"), refused("adapter")),
    Case(
        "export",
        "an-adapter-as-hf",
        instead("export", 0, lambda ground: ground.shared.policy),
        refused("--layout peft"),
    ),
    Case("export", "dtype-of-an-adapter", instead("export", layout="peft", dtype="float32"), refused("--dtype")),
    Case("export", "tower-of-hf", instead("export", vision_tower="clip"), refused("--vision-tower")),
    Case("export", "onto-a-folder", instead("export", 1, lambda ground: ground.shared.policy), refused("exists")),
    Case(
        "merge", "a-reward-model", instead("merge", 1, lambda ground: ground.shared.reward), refused("head"), slow=True
    ),
    Case("merge", "a-base-as-adapter", instead("merge", 1, "tiny"), refused("tiny"), slow=True),
    Case("merge", "onto-a-folder", instead("merge", 2, lambda ground: ground.shared.policy), refused("exists")),
    Case("eval pope", "both-answers", instead("eval pope", checkpoint="tiny"), refused("--answers", "--checkpoint")),
    Case("eval pope", "no-answers", instead("eval pope", answers=None), refused("--answers", "--checkpoint")),
    Case("eval pope", "seed-of-a-file", instead("eval pope", seed=3), refused("--seed")),
    Case("eval pope", "mode-unknown", instead("eval pope", mode="mine"), refused("mine")),
    Case(
        "eval pope",
        "checkpoint-without-images",
        instead("eval pope", answers=None, checkpoint="tiny"),
        refused("--images"),
    ),
    Case(
        "eval pope",
        "output-is-the-input",
        instead(
            "eval pope",
            output=lambda g: g.folder / "answers.json",
            answers=lambda g: g.write("answers.samples.jsonl", "{}"),
        ),
        refused("written over"),
    ),
    Case("eval pope", "id-key-of-none", instead("eval pope", id_key="number"), refused("number")),
    Case(
        "eval pope-mean",
        "one-twice",
        instead("eval pope-mean", results=lambda g: (g.shared.pope,) * 2),
        refused("second"),
    ),
    Case("eval pope-mean", "output-of-text", instead("eval pope-mean", output="o.txt"), refused("o.txt", ".json")),
    Case("eval chair", "mode-unknown", instead("eval chair", mode="loose"), refused("loose")),
    Case("eval chair", "prompt-of-a-file", instead("eval chair", prompt="Describe."), refused("--prompt")),
    Case(
        "eval chair",
        "image-name-without-place",
        instead("eval chair", answers=None, checkpoint="tiny", images=lambda g: g.shared.images, image_name="a.jpg"),
        refused("--image-name"),
    ),
    Case(
        "eval chair",
        "image-name-of-code",
        instead(
            "eval chair", answers=None, checkpoint="tiny", images=lambda g: g.shared.images, image_name="{0.__class__}"
        ),
        refused("--image-name"),
    ),
    Case(
        "eval chair",
        "image-name-too-wide",
        instead(
            "eval chair",
            answers=None,
            checkpoint="tiny",
            images=lambda g: g.shared.images,
            image_name="{:0999999999999d}",
        ),
        refused("--image-name"),
    ),
    Case("eval amber", "mode-unknown", instead("eval amber", mode="x"), refused("--mode")),
    Case("eval amber", "suffix-of-a-file", instead("eval amber", yes_no_suffix="none"), refused("--yes-no-suffix")),
    Case("eval hallusionbench", "verdict-key-of-none", instead("eval hallusionbench", verdict_key="x"), refused("x")),
    Case("eval mmhal", "judge-of-no-kind", instead("eval mmhal", judge="gpt-4"), refused("--judge")),
    Case("eval mmhal", "judge-of-ftp", instead("eval mmhal", judge="ftp://x"), refused("--judge")),
    Case(
        "eval mmhal",
        "judge-without-model",
        instead("eval mmhal", judge="http://127.0.0.1:1/v1"),
        refused("--judge-model"),
    ),
    Case("eval mmhal", "retries-of-a-replay", instead("eval mmhal", judge_retries=3), refused("--judge-retries")),
    Case("eval mmhal", "picture-without-pictures", instead("eval mmhal", judge_image=True), refused("--images")),
    Case("eval llava-bench", "no-context", instead("eval llava-bench", judge="checkpoint:tiny"), refused("--context")),
    Case("eval mme", "no-questions", instead("eval mme", questions=None), refused("--questions")),
    Case("eval vqa", "mode-unknown", instead("eval vqa", mode="exact"), refused("exact")),
    Case("eval aokvqa", "task-unknown", instead("eval aokvqa", task="both"), refused("both")),
    Case("eval mmbench", "submission-of-text", instead("eval mmbench", submission="x.txt"), refused("x.txt")),
    Case(
        "eval mmbench",
        "submission-over-the-questions",
        instead("eval mmbench", submission=lambda g: g.folder / "questions.tsv"),
        refused("written over"),
    ),
    Case("eval judge-bias", "bias-unknown", instead("eval judge-bias", biases="charm"), refused("charm")),
    Case("eval judge-bias", "no-judge", instead("eval judge-bias", reward=None, checkpoint=None), refused("--reward")),
    Case(
        "eval judge-bias", "judge-and-reward", instead("eval judge-bias", judge="checkpoint:tiny"), refused("--judge")
    ),
    Case("eval scenes", "split-of-training", instead("eval scenes", split="train"), refused("train")),
    Case("eval pope-questions", "more-than-there-are", instead("eval pope-questions", per_image=99), refused("99")),
    Case(
        "eval pope-questions",
        "over-a-file",
        instead("eval pope-questions", output=lambda g: g.folder / "objects.json"),
        refused("exists"),
    ),
    Case(
        "eval chair-objects",
        "over-a-file",
        instead("eval chair-objects", output=lambda g: g.folder / "captions.json"),
        refused("exists"),
    ),
    Case(
        "scenes",
        "visibility-of-one",
        instead("scenes", dials__faint_visibility="0.5"),
        refused("--dials.faint-visibility"),
    ),
    Case(
        "scenes",
        "visibility-upside-down",
        instead("scenes", dials__faint_visibility=("0.9", "0.1")),
        refused("faint-visibility"),
    ),
    Case("scenes", "no-scene", instead("scenes", test=0), refused("scene")),
    Case("demo", "too-few-pairs", instead("demo", preference=3), refused("preference")),
    Case("demo", "too-few-scored", instead("demo", test=2), refused("test")),
]
