"""Image priors, and how far a way of choosing pictures strays from one, in nats."""
