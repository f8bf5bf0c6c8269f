"""What the benchmarks of the CPU and of GPUs share: nets, contenders, rounds, result files."""
