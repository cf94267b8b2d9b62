"""The stand-in for lmms-eval against lmms-eval itself: the same names, signatures and fields, the same rules."""

import dataclasses
import importlib
import inspect

import numpy as np
import pytest

pytestmark = pytest.mark.lmms

MODULES = ("api.instance", "api.model", "api.task", "models.registry_v2", "utils")


def both(name):
    """A module of the stand-in, and lmms-eval's own."""
    return (importlib.import_module(f"{package}.{name}") for package in ("lmms_stand_in.lmms_eval", "lmms_eval"))


def parameters(function):
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


def fields(made):
    found = [(one.name, one.default, one.default_factory) for one in dataclasses.fields(made)]
    return found, made.__dataclass_params__.frozen


def abstract(made):
    return getattr(made, "__abstractmethods__", frozenset())


def compare(ours, theirs, name):
    if isinstance(ours, type):
        assert isinstance(theirs, type), name
        assert abstract(ours) == abstract(theirs), name
        assert dataclasses.is_dataclass(ours) == dataclasses.is_dataclass(theirs), name
        if dataclasses.is_dataclass(ours):
            assert fields(ours) == fields(theirs), name
        for member in vars(ours):
            if member == "__init__" or not member.startswith("_"):
                found = (inspect.getattr_static(one, member) for one in (ours, theirs))
                compare(*found, f"{name}.{member}")
        return
    assert type(ours) is type(theirs), name
    if isinstance(ours, classmethod):
        assert parameters(ours.__func__) == parameters(theirs.__func__), name
    elif callable(ours):
        assert parameters(ours) == parameters(theirs), name
    elif not isinstance(ours, property):
        assert ours == theirs, name


@pytest.mark.parametrize("name", MODULES)
def test_names_signatures_and_fields(name):
    ours, theirs = both(name)
    assert "lmms_stand_in" not in theirs.__file__
    defined = [thing for thing in vars(ours).values() if getattr(thing, "__module__", None) == ours.__name__]
    seen = [thing for thing in defined if not thing.__name__.startswith("_")]
    assert seen
    for thing in seen:
        compare(thing, getattr(theirs, thing.__name__), f"{name}.{thing.__name__}")


def test_what_a_model_starts_with():
    def started(module):
        answer = dict.fromkeys(abstract(module.lmms), lambda self, requests: [])
        return vars(type("Model", (module.lmms,), answer)())

    ours, theirs = map(started, both("api.model"))
    assert ours
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " a=1 , b=x=y,,c=1.5,d=True,e=false,f=1e3,g=-2,h=,i=٣",
        """a='x,y',b="p,q",c={"k":[1,2]},d=[1,2],e=\\'z""",
        "checkpoint=tiny,batch_size=4",
    ],
)
def test_arguments_are_read_alike(text):
    ours, theirs = (module.simple_parse_args_string(text) for module in both("utils"))
    assert ours == theirs
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


def test_answers_arrive_alike():
    def arrived(module):
        counts = module.TokenCounts(1, 2)
        result = module.GenerationResult((-1.5, True), counts)
        answers = [
            "a",
            result,
            ("a", counts),
            ["a", {"output_tokens": 3}],
            ["a", "b"],
            [],
            (-1.5, True),
            None,
            ("a", 3),
        ]
        found = [module.unwrap_generation_output(answer) for answer in answers]
        return [(text, counts and dataclasses.astuple(counts)) for text, counts in found]

    ours, theirs = map(arrived, both("api.instance"))
    assert ours == theirs


def test_requests_are_made_alike():
    def made(module):
        metadata = {"task": "t", "doc_id": 3, "repeats": 1}
        requests = [module.Instance("loglikelihood", arguments, 0, metadata) for arguments in (("a", "b"), "a")]
        return [(dataclasses.asdict(request), request.args) for request in requests]

    ours, theirs = map(made, both("api.instance"))
    assert ours == theirs


def test_choices_are_scored_alike():
    choices = ["a", "bbbb", "cc"]

    def scored(module):
        rng, task = np.random.default_rng(0), object.__new__(module.ConfigurableTask)
        task._config = type("Config", (), {"process_results": None})()
        task.OUTPUT_TYPE, task.multiple_input, task.multiple_target = "multiple_choice", False, False
        task._metric_fn_list = {"acc": None, "acc_norm": None, "exact_match": None}
        task.doc_to_choice, task.doc_to_target = (lambda doc: choices), (lambda doc: doc)
        results = [[(cost, bool(cost < 0.3)) for cost in rng.random(3)] for _ in range(60)]
        return [task.process_results(i % 3, result) for i, result in enumerate(results)]

    ours, theirs = map(scored, both("api.task"))
    assert ours == theirs
    assert {tuple(found.values()) for found in ours} >= {(1.0, 0.0, 1), (0.0, 1.0, 0), (1.0, 1.0, 1), (0.0, 0.0, 0)}


def test_classes_are_found_and_refused_alike():
    for module in both("models.registry_v2"):
        base = module.__name__.removesuffix("models.registry_v2") + "api.model.lmms"

        def found(module=module, **manifest):
            registry = module.ModelRegistryV2()
            registry.register_manifest(module.ModelManifest("ours", **manifest))
            return registry.get_model_class("ours")

        assert found(simple_class_path=base).__name__ == "lmms"
        with pytest.raises(ValueError, match="at least one class path"):
            found()
        with pytest.raises(TypeError, match="not a subclass"):
            found(simple_class_path="collections.OrderedDict")
        with pytest.raises(TypeError, match="is_simple"):
            found(chat_class_path=base)
        with pytest.raises(ValueError, match="not found"):
            module.ModelRegistryV2().get_model_class("ours")
