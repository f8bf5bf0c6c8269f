"""Convolution: its kernels, the choice among them, and its forms.

A file with a table of kernels has the name of their file in kernels/; the others are named for what they say
of all of these: the shape, the work and its candidates, the choice, the forms.
"""
