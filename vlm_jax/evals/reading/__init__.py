"""How free text is read, whichever the benchmark: words and sentences, punctuation, letters of options."""
