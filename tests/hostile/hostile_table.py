"""All of the table: every family's cases."""

import adapters_table
import checkpoints_table
import files_table
import judges_table
import numbers_table
import options_table
import pictures_table
import places_table
import recipes_table
import rows_table
import runs_table

_FAMILIES = (
    adapters_table,
    checkpoints_table,
    files_table,
    judges_table,
    numbers_table,
    options_table,
    pictures_table,
    places_table,
    recipes_table,
    rows_table,
    runs_table,
)
TABLE = [case for family in _FAMILIES for case in family.CASES]
