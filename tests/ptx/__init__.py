"""A SIMT interpreter of PTX in NumPy: it executes the very text that goes into plans, and checks what it does.

``program`` parses the text, ``machine`` executes it, ``memory`` and ``shared`` check every access, ``counts`` counts
what a launch asks of the memory, and ``plan`` launches a kernel that was compiled for plans. See each module.
"""
