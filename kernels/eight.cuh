// Up to 8 arrays, or numbers, as parameters of a kernel: missing ones are null, or whatever the kernel says.
//
// EIGHT declares name0 to name7, GATHER_EIGHT initialises an array with them. Kernels index that array with numbers that
// are known when they are compiled (unrolled loops), so that it never needs memory.
#pragma once

#define EIGHT(type, name) \
  type name##0, type name##1, type name##2, type name##3, type name##4, type name##5, type name##6, type name##7
#define GATHER_EIGHT(name) {name##0, name##1, name##2, name##3, name##4, name##5, name##6, name##7}
