"""Looking inside: what states mean, and edits of them."""
