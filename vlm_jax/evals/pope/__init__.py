"""POPE: yes/no questions about objects; building them; the mean over its files."""
