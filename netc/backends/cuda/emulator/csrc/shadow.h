// What check mode remembers of memory: regions, and for each word who wrote and read it last.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

// One access to a word. It is small: there are three for every four bytes of device memory.
struct Access {
  uint32_t block = 0;       // block_number of its block, 0 for none
  uint32_t epoch = 0;       // barriers of the block before it
  uint32_t warp_clock = 0;  // __syncwarp of the warp before it
  uint32_t clock = 0;       // releases of the thread before it, and one; for bulk copies, their number
  uint32_t site = 0;        // address of the code, from site_base on
  uint16_t thread = 0;
  uint8_t bytes = 0;  // a bit for each byte of the word
  enum : uint8_t { PLAIN, ATOMIC, ATOMIC_OF_SEVERAL_BLOCKS } manner = PLAIN;
};

struct Word {
  Access written, read, read_before;
  uint8_t defined = 0, copying = 0, flying = 0;  // a bit for each byte; flying: a bulk copy is on its way to it
};

constexpr int SHARED = -1;

// A buffer in a device's memory, or a shared variable: its device is SHARED.
struct Region {
  uintptr_t begin, end;
  std::string name;
  int device;
  bool freed = false;
  std::vector<Word> words;

  Region(uintptr_t begin, size_t bytes, const char* name, int device)
      : begin(begin), end(begin + bytes), name(name), device(device), words((end - (begin & ~uintptr_t(3)) + 3) / 4) {}
  bool is_shared() const { return device == SHARED; }
  Word& word(uintptr_t address) { return words[(address - (begin & ~uintptr_t(3))) / 4]; }
};

// A part of a region that the launch may touch, under the name it has there.
struct Range {
  uintptr_t begin, end;
  Region* region;
  std::string name;
};
