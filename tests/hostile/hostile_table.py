"""All of the table: every family's cases."""

import files_table
import numbers_table
import options_table
import places_table

TABLE = [*files_table.CASES, *numbers_table.CASES, *options_table.CASES, *places_table.CASES]
