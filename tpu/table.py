def write_tables(records): pass
