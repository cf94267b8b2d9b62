"""The class that models derive from."""

import abc

from ..utils import simple_parse_args_string


class lmms(abc.ABC):
    is_simple: bool = True

    def __init__(self) -> None:
        self.task_dict = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @classmethod
    def create_from_arg_string(cls, arg_string, additional_config=None):
        """Here an option of lmms-eval's own that the string names too is given twice, and Python refuses it."""
        others = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return cls(**simple_parse_args_string(arg_string), **others)
