"""What weights are kept as, in names and numbers alone, without torch: `list` answers at once. formats.py says how they lie."""

GROUP = 64  # columns that activations, and most kinds of weights, share a scale over
TILE = 16  # rows of a tile
BITS = {"nf4": 4, "int8": 8, "q4_0": 4, "q8_0": 8, "3bit": 3}  # of a code, of every kind
SHARED = {"nf4": GROUP, "int8": GROUP, "q4_0": 32, "q8_0": 32, "3bit": GROUP}  # weights along K that share a scale
KEPT = ("q4_0", "q8_0")  # of GGUF files, as they are
LAYOUTS = ("rowmajor", "tile16")
