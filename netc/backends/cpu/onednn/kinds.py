"""The numbers that oneDNN's C interface knows things by."""

from __future__ import annotations

from typing import Final

BFLOAT16: Final = 2
FLOAT32: Final = 3
ANY_TAG: Final = 1
CPU: Final = 1
IN_ORDER: Final = 1

FORWARD_TRAINING: Final = 64
FORWARD_INFERENCE: Final = 96
BACKWARD: Final = 128
BACKWARD_DATA: Final = 160

CONVOLUTION_DIRECT: Final = 0x1
DECONVOLUTION_DIRECT: Final = 0xA
POOLING_MAX: Final = 0x1FF
POOLING_AVERAGE_WITH_PADDING: Final = 0x2FF
POOLING_AVERAGE_WITHOUT_PADDING: Final = 0x3FF
LRN_ACROSS_CHANNELS: Final = 0xAFF
LRN_WITHIN_CHANNEL: Final = 0xBFF
SOFTMAX: Final = 0x30000
ADD: Final = 0x1FFF0
MULTIPLY: Final = 0x1FFF1
RELU: Final = 0x20
TANH: Final = 0x21
ELU: Final = 0x22
LOGISTIC: Final = 0x29
# The same functions with a gradient from the result instead of the argument.
RELU_BY_RESULT: Final = 0x100
TANH_BY_RESULT: Final = 0x101
LOGISTIC_BY_RESULT: Final = 0x104

# How batch normalisation works.
GIVEN_STATISTICS: Final = 1
WITH_SCALE: Final = 2
WITH_SHIFT: Final = 4
THEN_RELU: Final = 8

# What a description of memory is asked for.
DATA_TYPE: Final = 258

# What a primitive description is asked for.
IMPLEMENTATION: Final = 8
SCRATCHPAD_OF: Final = 136
ARGUMENT_OF: Final = 255

# Arguments of primitives.
SOURCE: Final = 1
SOURCE_1: Final = 2
SOURCES: Final = 1024
DESTINATION: Final = 17
WEIGHTS: Final = 33
BIAS: Final = 41
MEAN: Final = 49
VARIANCE: Final = 50
SCALE: Final = 51
SHIFT: Final = 52
WORKSPACE: Final = 64
SCRATCHPAD: Final = 80
SOURCE_GRADIENT: Final = 129
DESTINATION_GRADIENT: Final = 145
WEIGHTS_GRADIENT: Final = 161
BIAS_GRADIENT: Final = 169
SCALE_GRADIENT: Final = 255
SHIFT_GRADIENT: Final = 256

FACTORS: Final = (SOURCE, WEIGHTS, DESTINATION_GRADIENT)  # of the products that a layer with weights computes


def operand_after(place: int) -> int:
    """The argument of the operation at this place among those that follow a primitive."""
    return 32768 * (place + 1) | SOURCE_1
