"""What ``kedro run`` shows: a line per stage with its key figure, a table, what comes next."""
