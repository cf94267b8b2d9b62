"""Stands in for lmms-eval 0.7.3 where it is not installed: what our model class and its tests use of it, and no more.

Names, signatures, fields and rules are the package's; tests/evals/test_lmms_stand_in.py holds one against the other.
"""
