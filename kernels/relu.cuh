// The ReLU that kernels apply to what they are about to store.
#pragma once
#include "netc.cuh"

// max(v, 0) + slope * min(v, 0); a slope of 1 is no ReLU. With no slope -inf gives 0, not NaN; a NaN stays one.
DEVICE float relu(float v, float slope) { return v > 0 ? v : slope == 0 && v <= 0 ? 0.0f : slope * v; }
