"""What training minimises: pure functions of predictions and targets."""
