"""What a training does besides composing the line: start, curriculum, densification, hand-over to the ODE."""
