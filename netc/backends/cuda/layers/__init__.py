"""The families of kernels and forms of single layers, each in files of its name."""
