"""What is timed or compared. Threads must wait passively, and that is read when torch is first imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as specexec.__main__
