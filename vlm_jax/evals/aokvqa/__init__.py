"""A-OKVQA: choices and direct answers."""
