"""What the serve benchmark is made of: a world, a replica under load, a trainer, the bare compute."""
