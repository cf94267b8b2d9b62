"""AMBER: what descriptions make up, and yes/no questions."""
