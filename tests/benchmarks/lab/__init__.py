"""Tree-drafting rules compared at equal nodes on equal prompts: `python -m tests.benchmarks.lab`."""
