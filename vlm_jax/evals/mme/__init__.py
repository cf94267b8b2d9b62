"""MME: pairs of yes/no questions."""
