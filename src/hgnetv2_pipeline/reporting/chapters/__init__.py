"""The chapters of the report: text, tables and figures of each in one file."""
