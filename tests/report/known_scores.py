"""Small evaluations with known figures."""

from vlm_jax.evals.chair import scorer as chair
from vlm_jax.evals.mmhal import scorer as mmhal
from vlm_jax.scenes.world import Scene, Thing

# A faint red ball and two boxes; the ball's usual companion, the kite, is absent.
ROOM = Scene(
    "test",
    0,
    "snow",
    (
        Thing("ball", "red", "large", 0, visibility=0.2),
        Thing("box", "green", "large", 6),
        Thing("box", "blue", "small", 7),
    ),
)


def pope_scores(f1: float, accuracy: float) -> dict:
    interval = (accuracy - 0.05, accuracy + 0.05)
    return {"f1": f1, "accuracy": accuracy, "accuracy_interval": interval, "yes_rate": 0.5}


def scores_of(wrong: int, images: int = 40, found: int = 2) -> dict:
    """An evaluation of scenes with a ball and a box: ``wrong`` descriptions add a kite, all name ``found`` kinds."""
    right = ["ball", "box"][:found]
    mentions = [right + ["kite"] * (i < wrong) for i in range(images)]
    return {
        "chair": chair.report(mentions, [{"ball", "box"}] * images),
        "mean_length": 12.5,
        "pope": {
            "random": pope_scores(0.9, 0.8),
            "popular": pope_scores(0.8, 0.7),
            "adversarial": pope_scores(0.7, 0.3),
            "partner": pope_scores(0.1, 0.2),
        },
        "pope_mean": pope_scores(0.8, 0.6),
        "mmhal": mmhal.score([6, 1, 4, 3], ["attribute", "attribute", "other", "other"]),
        "descriptions": {},
    }
