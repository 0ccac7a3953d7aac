"""The network under study: its card, loading by name, taps into its layers."""
