"""What an iteration needs besides its layers: batches on their way up, updates, journal and recording."""
