"""HallusionBench: yes/no questions about figures and their edited twins."""
