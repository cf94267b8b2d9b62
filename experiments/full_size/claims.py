"""Whether big checkpoints convert in little memory, and whether what comes out answers."""

from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, versions_of
from experiments.full_size.run import bound_gib, load


def summary(folder: Path) -> Summary:
    results = load(folder)
    claims = []
    for one in results:
        model, source = f"{one['size']} to {one['scheme']}", f"results/{one['size']}_{one['scheme']}.json"
        peak, words = one["convert"]["peak_gib"], sum(len(line.split()) for line in one["generate"]["output"])
        bound, some = Wanted("value", at_most=bound_gib(one)), Wanted("value", at_least=1)
        once = (None, "measured once")
        memory = f"{model}: peak memory of the conversion, GiB (bound: result + shard + 1)"
        claims.append(Claim(memory, f"{source}: convert", peak, *once, bound, 1))
        claims.append(Claim(f"{model}: words answered", f"{source}: generate", words, *once, some, 1))
    return Summary(claims, versions_of(results))
