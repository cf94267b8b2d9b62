import html.parser
import re

import pytest
from known_scores import scores_of

from vlm_jax.report.gallery import EVEN, Picture
from vlm_jax.report.page import duration, page, share_interval, write_page
from vlm_jax.scenes.draw import draw
from vlm_jax.scenes.files import encode

EVIL = "<script>alert(1)</script>\"'<img src=x onerror=alert(1)>"


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and the text of each ``mark``."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.marks, self._open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs)["class"] if tag == "mark" else None

    def handle_data(self, data):
        if self._open:
            self.marks.append((self._open, data))
            self._open = None


def ppo_rows(steps=40):
    return [
        {"step": i, "score": 0.1 * i, "reward": 0.1 * i, "kl": 0.2 * i, "length": 20.0, "ended": 1.0}
        for i in range(steps)
    ]


CURVES = {
    "plain": ppo_rows(),
    "with facts": [
        *ppo_rows(30),
        {"step": 30, "score": float("nan"), "kl": 1.0},
        {"step": 30, "sampled_chair_i": 0.2},
    ],
    "reward": [
        {"step": i, "loss": 0.69, "accuracy": 0.5, "margin": 0.1 * i, "mean_score": 0.0} for i in range(4, 50, 5)
    ],
}
MADE = {"seed": 7, "seconds": 4210.0, "dials": {"faint_visibility": [0.12, 0.35]}, "settings": {"ppo": {"steps": 40}}}


@pytest.fixture
def results(models):
    seen = {"held_out_accuracy": 0.7, "held_out_pairs": 200, "resolution": 24, "facts": True}
    return {"models": models, "reward_models": {"reward": seen}, "made": MADE}


@pytest.fixture
def gallery(room):
    said = {"the start": "A ball and a kite.", "plain": EVIL, "with facts": "There is no kite. A sphere."}
    return [Picture("test_1.png", encode(draw(room)), room, said, EVEN)]


def test_the_page_needs_nothing_beside_it(tmp_path, results, gallery):
    path = tmp_path / "new" / "page.html"
    write_page(path, results, CURVES, gallery)
    text = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert not re.search(r"https?://|url\(|@import", text)
    tags = Tags(text).tags
    assert {"svg", "img", "table", "mark"} <= {tag for tag, _ in tags}
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not {"href", "srcset", "data", "action", "xlink:href"} & set(attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")


def test_text_and_names_are_escaped_everywhere(results, gallery, models):
    evil = results | {
        "models": {f"{name}{EVIL}": scores for name, scores in models.items()},
        "reward_models": {EVIL: results["reward_models"]["reward"]},
        "made": {EVIL: EVIL, "group": {EVIL: EVIL}},
    }
    said = dict.fromkeys(evil["models"], EVIL)
    named = [Picture(EVIL, gallery[0].png, gallery[0].scene, said, EVIL)]
    curves = {f"{name}{EVIL}": steps for name, steps in CURVES.items()}
    text = page(evil, curves, named)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    tags = Tags(text).tags
    assert "script" not in {tag for tag, _ in tags}
    assert len([tag for tag, _ in tags if tag == "img"]) == 1
    assert not any("onerror" in attributes for _, attributes in tags)


def test_hallucinated_words_are_marked_and_missed_ones_listed(results, gallery):
    text = page(results, {}, gallery)
    legend = [("hallucinated", "tree"), ("right", "tree")]
    assert Tags(text).marks == [*legend, ("right", "ball"), ("hallucinated", "kite"), ("right", "sphere")]
    # Two models leave the boxes out or everything; only the plain one misses the ball.
    assert re.findall(r"Missed: ([\w, ]+)", text) == ["box", "ball, box", "box"]
    assert "large red ball (faint)" in text


def test_every_run_and_every_metric_has_its_curve(results, gallery):
    text = page(results, CURVES, gallery)
    labels = [attributes["aria-label"] for tag, attributes in Tags(text).tags if tag == "svg"]
    assert "Reward model's score (mean of a step's answers) over steps: plain, with facts" in labels
    assert "Hallucination, sampled descriptions (CHAIR_i, %) over steps: with facts" in labels
    assert "Loss (nats a pair) over steps: reward" in labels
    assert not any("Recall, sampled descriptions" in label for label in labels)
    assert not any("nan" in corners for corners in re.findall(r'points="([^"]*)"', text))


def test_table_headline_and_making_are_told(results, gallery):
    text = page(results, CURVES, gallery)
    assert "With facts names 80\N{NO-BREAK SPACE}% fewer absent objects than the start" in text
    assert '<td class="best"><span>4.8</span>' in text
    low, high = share_interval(0.7, 200)
    assert f"[{100 * low:.1f} %, {100 * high:.1f} %]" in text
    for told in ("24 px", "true captions", "1 h 10 min", "0.12 to 0.35", "ppo.steps", "faint_visibility"):
        assert told in text


def test_a_page_of_one_model_and_nothing_else():
    text = page({"models": {"it": scores_of(3)}}, {}, [])
    assert "Of the objects that it names" in text
    assert 'class="best"' not in text
    assert not {"svg", "img", "figure"} & {tag for tag, _ in Tags(text).tags}


def test_durations():
    assert [duration(s) for s in (7, 65.4, 3600)] == ["7 s", "1 min 5 s", "1 h 0 min"]


def test_share_interval_against_a_published_example():
    # Newcombe 1998, table I: 81 of 263, score method.
    assert share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
