"""``vlm-jax eval NAME``: one module a benchmark."""

BENCHMARKS = {
    "scenes": "a checkpoint on a drawn world: POPE, CHAIR and MMHal-style ratings by a rule that knows the truth",
    "pope": "yes/no questions about objects, five ways to read the answers",
    "pope-mean": "the mean over POPE's random, popular and adversarial results, as papers report it",
    "chair": "objects that captions name and images do not have",
    "amber": "what descriptions make up, and yes/no questions about existence, attributes and relations",
    "hallusionbench": "yes/no questions about figures and their edited twins, by a judge's verdicts or by a rule",
    "mmhal": "open questions whose answers a judge rates from 0 to 6",
    "llava-bench": "open questions whose answers a judge scores beside GPT-4's, COCO and in the wild",
    "mme": "pairs of yes/no questions about an image, in fourteen subtasks",
    "vqa": "VQA-v2's open questions, against ten annotators, three ways to compare the answers",
    "aokvqa": "A-OKVQA's choices and direct answers",
    "mmbench": "MMBench's options, rotated or not, two ways to read the answers",
    "judge-bias": "what moves the verdicts of a judge or reward model that should not: CALM's biases",
    "chair-objects": "the objects of COCO's images, from its instances and captions, for chair and pope-questions",
    "pope-questions": "POPE's questions (random, popular, adversarial) from any annotation of objects",
}
