"""Other trainers: their batches as trajectories and back."""
