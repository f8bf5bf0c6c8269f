// Arrays (outer, channels, inner) that meet one number for each channel: which channel an element belongs to.
#pragma once
#include "division.cuh"

// `cell` is the element's place among the `inner` ones of its channel.
struct Channel {
  unsigned channel, cell;
};
struct Channels {
  Divisor inner, channels;

  DEVICE Channel of(unsigned element) const {
    const unsigned cell = inner.split(element);
    return {channels.split(element), cell};
  }
  // Moves on to the next element.
  DEVICE void advance(Channel& at) const {
    if (++at.cell < inner.divisor) return;
    at.cell = 0;
    if (++at.channel == channels.divisor) at.channel = 0;
  }
};
