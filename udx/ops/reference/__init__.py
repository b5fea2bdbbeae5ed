"""The BEV operators in plain torch, vectorised: what runs on the CPU, and what the kernels are held to."""
