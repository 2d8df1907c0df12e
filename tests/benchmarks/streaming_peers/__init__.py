"""llama.cpp and accelerate with a model larger than memory: what our streaming is compared with."""
