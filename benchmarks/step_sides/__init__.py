"""What the step benchmark is made of: samples, the shards and trainer, and the sides it is compared with."""
