"""What a tunnel costs, beside the direct way to its origin and other tunnels: ``python -m benchmarks --help``."""
