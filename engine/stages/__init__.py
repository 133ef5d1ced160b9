"""From text that has to be spoken to samples: front end, generation, and what is done to the waveform."""
