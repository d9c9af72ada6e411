"""Training losses: pure functions of predictions and targets."""
