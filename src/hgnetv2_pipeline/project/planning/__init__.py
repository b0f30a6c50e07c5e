"""What a chain will cost, before it is run: steps, hours, memory and disk."""
