import os

# Threads that wait for others sleep rather than spin, which makes everything wait where another program runs as well.
# OpenMP reads this when PyTorch loads it, so it stands where every script passes before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
