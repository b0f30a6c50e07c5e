"""Trainings as results: students, members of a teacher, arms of the comparison, stored logits."""
