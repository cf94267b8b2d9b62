"""VQA-v2: open questions against ten annotators."""
