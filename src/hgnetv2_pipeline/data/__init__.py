"""Which images there are: lists and folders are read, checked, split and written as tables.

In go folders, lists and archives of a user; out come tables of samples, class maps, quarantines
and decoded images. Nothing here needs torch.
"""
