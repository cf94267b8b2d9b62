"""How a task reads what a model says of its choices."""

import numpy as np


class ConfigurableTask:
    """The rule for ``multiple_choice`` with one right choice, told by its number."""

    OUTPUT_TYPE = None

    def process_results(self, doc, results, full_docs=None):
        if self.OUTPUT_TYPE != "multiple_choice" or self.multiple_input or self.multiple_target:
            raise NotImplementedError("the stand-in reads multiple choice with one right answer; see make test-lmms")
        costs, greedy = zip(*results, strict=True)
        right = self.doc_to_target(doc)
        lengths = np.array([len(choice) for choice in self.doc_to_choice(doc)], float)
        values = {
            "acc": float(np.argmin(costs) == right),
            "acc_norm": float(np.argmin(costs / lengths) == right),
            "exact_match": int(greedy[right]),
        }
        return {name: value for name, value in values.items() if name in self._metric_fn_list}
