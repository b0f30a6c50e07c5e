"""The teacher as results: probes and their self-training, the choice among candidates, the gate."""
