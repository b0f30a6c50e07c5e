"""Mining as results: scores by source, the mined list, its purity, and the account of it all."""
