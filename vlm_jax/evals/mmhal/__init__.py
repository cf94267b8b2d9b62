"""MMHal-Bench: a judge rates answers from 0 to 6."""
