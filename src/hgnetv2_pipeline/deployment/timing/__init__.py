"""How fast an exported model answers, on which machine, and how sure that is."""
