"""From result files to a page for people: an offline ``report.html`` and ``report.md``."""
