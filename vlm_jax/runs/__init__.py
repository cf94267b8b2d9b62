"""The impure part of every run: what it is made from, its loop, its log and its saved states."""
