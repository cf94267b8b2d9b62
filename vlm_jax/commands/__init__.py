"""One module a verb of the command line: an options record that needs no heavy import, and ``run(options)``."""
