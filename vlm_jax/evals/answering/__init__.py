"""From questions about images to files of answers and likelihoods, and reading such files."""
