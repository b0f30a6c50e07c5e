"""What every pipeline of this project shares: who a run is, its parameters, lists and results."""
