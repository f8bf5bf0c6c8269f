// Warp operations: every lane named by the mask hands in its value, the last to arrive exchanges them all.
#pragma once
#include "runtime.h"

EMU_OPERATION void __syncwarp(unsigned mask = 0xffffffffu) {
  emu_warp_meet(mask, nullptr, [](void**, unsigned) {}, true, EMU_SITE);
}

template <class T>
struct EmuShuffle {
  T given, taken;
  int source;
};
template <class T>
EMU_UNCHECKED static void emu_exchange_shuffle(void** lanes, unsigned mask) {
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    auto* mine = static_cast<EmuShuffle<T>*>(lanes[i]);
    if (!(mask >> mine->source & 1))
      emu_fail("bad mask", "a shuffle takes the value of a lane that the mask does not name", nullptr);
    mine->taken = static_cast<EmuShuffle<T>*>(lanes[mine->source])->given;
  }
}
template <class T>
EMU_UNCHECKED inline T emu_shuffle(unsigned mask, T value, int source, void* site) {
  EmuShuffle<T> mine{value, value, source};
  emu_warp_meet(mask, &mine, emu_exchange_shuffle<T>, false, site);
  return mine.taken;
}
// The first lane of the group of `width` lanes that this lane belongs to.
EMU_UNCHECKED inline int emu_group(int width) { return int(emu_now.lane) & ~(width - 1); }

template <class T>
EMU_OPERATION T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emu_shuffle(mask, value, emu_group(width) | (source & (width - 1)), EMU_SITE);
}
template <class T>
EMU_OPERATION T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  int lane = emu_now.lane, source = lane ^ bits;
  return emu_shuffle(mask, value, (source & ~(width - 1)) > emu_group(width) ? lane : source, EMU_SITE);
}
template <class T>
EMU_OPERATION T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = emu_now.lane, source = lane + int(delta);
  return emu_shuffle(mask, value, source >= emu_group(width) + width ? lane : source, EMU_SITE);
}
template <class T>
EMU_OPERATION T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = emu_now.lane, source = lane - int(delta);
  return emu_shuffle(mask, value, source < emu_group(width) ? lane : source, EMU_SITE);
}

struct EmuVote {
  bool given;
  unsigned taken;
};
EMU_UNCHECKED static void emu_exchange_votes(void** lanes, unsigned mask) {
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) votes |= unsigned(static_cast<EmuVote*>(lanes[i])->given) << i;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) static_cast<EmuVote*>(lanes[i])->taken = votes;
}
EMU_UNCHECKED inline unsigned emu_vote(unsigned mask, bool given, void* site) {
  EmuVote mine{given, 0};
  emu_warp_meet(mask, &mine, emu_exchange_votes, false, site);
  return mine.taken;
}
EMU_OPERATION unsigned __ballot_sync(unsigned mask, int vote) { return emu_vote(mask, vote != 0, EMU_SITE); }
EMU_OPERATION int __any_sync(unsigned mask, int vote) { return emu_vote(mask, vote != 0, EMU_SITE) != 0; }
EMU_OPERATION int __all_sync(unsigned mask, int vote) { return emu_vote(mask, vote == 0, EMU_SITE) == 0; }
