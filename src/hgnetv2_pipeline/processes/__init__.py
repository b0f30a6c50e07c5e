"""Several processes for one job: side by side on specifications, or as one group that trains
together, which torch elastic starts and watches.
"""
