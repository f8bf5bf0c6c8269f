// The checks of check mode: every access of a kernel is held to the buffers of its launch, to what has been written,
// and to what other threads did since the last barrier.
#include "shadow.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "internal.h"

namespace {
struct Constants {
  uintptr_t begin, end;
};
const char* const VERB[] = {"read", "write", "atomic"};
constexpr uintptr_t NEAR = 4096, NULL_PAGE = 4096;

std::vector<std::unique_ptr<Region>> regions;  // of all devices, and shared variables; by address
std::vector<Range> ranges;                     // of this launch
size_t last_range;
std::vector<Constants> constants;  // read-only data of this launch's library
std::unique_ptr<Region> dynamic;
int device;  // of this launch
uintptr_t site_base;
uint32_t first_block;  // of this launch

auto first_after(uintptr_t address) {
  return std::upper_bound(regions.begin(), regions.end(), address,
                          [](uintptr_t a, const std::unique_ptr<Region>& region) { return a < region->begin; });
}
Region* find_region(uintptr_t address) {
  auto after = first_after(address);
  if (after == regions.begin()) return nullptr;
  Region* region = std::prev(after)->get();
  return address < region->end ? region : nullptr;
}
Range* find_range(uintptr_t address, unsigned bytes) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    Range& range = ranges[(last_range + i) % ranges.size()];
    if (address < range.begin || address + bytes > range.end) continue;
    last_range = (last_range + i) % ranges.size();
    return &range;
  }
  return nullptr;
}

// In words, where an address lies that the launch may not touch.
std::string describe(uintptr_t address) {
  if (address < NULL_PAGE) return "through a null pointer";
  if (on_a_stack(address)) return "a local variable of another thread";
  for (const Range& range : ranges) {
    if (address >= range.begin && address < range.end) return "across the end of " + range.name;
    if (address >= range.end && address - range.end < NEAR)
      return std::to_string(address - range.end) + " bytes past the end of " + range.name;
  }
  std::string inside;
  if (Region* region = find_region(address))
    inside = ", inside " + region->name + (region->freed ? ", which has been freed" : ", which this launch was not given") +
             (region->device == device || region->is_shared() ? "" : ": it is another device's memory");
  for (const Range& range : ranges)
    if (address < range.begin && range.begin - address < NEAR)
      return std::to_string(range.begin - address) + " bytes before the start of " + range.name + inside;
  return inside.empty() ? "far from every buffer of this launch" : inside.substr(2);
}

bool of_another_block(const Access& earlier) {
  return earlier.block != block_number || earlier.manner == Access::ATOMIC_OF_SEVERAL_BLOCKS;
}
// Whether an mbarrier orders an access before what the current thread does now.
bool is_known(const Access& earlier) {
  size_t i = knowledge_index(earlier.thread);
  return i < current->known.size() && current->known[i] >= earlier.clock;
}
// Whether two accesses to a byte may happen in either order. (Happens-before, in the forms that kernels have:
// barriers of the block and of the warp, and mbarriers. Blocks are never ordered.)
bool unordered(const Access& earlier, const Access& now, bool shared) {
  if (!(earlier.bytes & now.bytes) || earlier.block < first_block) return false;
  if (earlier.manner != Access::PLAIN && now.manner != Access::PLAIN) return false;
  if (of_another_block(earlier)) return !shared;
  if (is_known(earlier)) return false;
  if (earlier.thread == COPY_ENGINE) return true;
  if (earlier.thread == now.thread || earlier.epoch != now.epoch) return false;
  bool same_warp = earlier.thread / 32 == now.thread / 32;
  return !(same_warp && earlier.warp_clock < now.warp_clock);
}

// Two readers are remembered: different threads, and where possible of different warps, so that of several
// readers one is kept that a later writer is not ordered after.
void remember_reader(Word& word, const Access& now) {
  const Access& last = word.read;
  bool other_thread = last.thread != now.thread || last.block != now.block;
  bool other_warp = last.thread / 32 != now.thread / 32;
  bool before_is_stale = word.read_before.block != now.block || word.read_before.epoch != now.epoch;
  if (other_thread && (other_warp || before_is_stale)) word.read_before = last;
  word.read = now;
}

struct Checked {
  Range& range;
  uintptr_t address;
  int access;
  void* site;

  unsigned long offset() const { return address - range.begin; }
  void report_race(const char* what, const Access& earlier) const {
    if (earlier.thread == COPY_ENGINE) {
      add_report("unwaited bulk copy", site, "%s %s+%lu, which a bulk copy has brought, without waiting for its mbarrier",
                 what, range.name.c_str(), offset())
          ->earlier_site = site_base + earlier.site;
      return;
    }
    bool other = of_another_block(earlier);
    EmuReport* report = add_report(other ? "race between blocks" : "race", site,
                                   "%s %s+%lu without a barrier since thread %u%s", what, range.name.c_str(), offset(),
                                   earlier.thread, other ? " of another block" : "");
    report->earlier_site = site_base + earlier.site;
  }
  void report(const char* kind, const char* what) const {
    add_report(kind, site, "%s of %s+%lu%s", VERB[access], range.name.c_str(), offset(), what);
  }
};

void check_word(Word& word, const Access& now, const Checked& at) {
  bool shared = at.range.region->is_shared();
  if (word.copying & now.bytes) at.report("unwaited cp.async", " while a cp.async to it has not been waited for");
  if (word.flying & now.bytes) at.report("unwaited bulk copy", " while a bulk copy to it is on its way");
  if (at.access != EMU_WRITE && (word.defined & now.bytes) != now.bytes) {
    at.report("uninitialised read", ", which nothing has written");
    word.defined |= now.bytes;
  }
  if (unordered(word.written, now, shared))
    at.report_race(at.access == EMU_READ ? "reads" : "overwrites", word.written);
  if (at.access == EMU_READ) return remember_reader(word, now);
  const Access* reader = unordered(word.read, now, shared)          ? &word.read
                         : unordered(word.read_before, now, shared) ? &word.read_before
                                                                    : nullptr;
  if (reader) at.report_race("overwrites what was read from", *reader);
  bool joins_others = word.written.block >= first_block && of_another_block(word.written);
  word.written = now;
  if (now.manner == Access::ATOMIC && joins_others) word.written.manner = Access::ATOMIC_OF_SEVERAL_BLOCKS;
  word.defined |= now.bytes;
}
// Local variables, and threadIdx and its like.
bool is_own(uintptr_t address) {
  return on_own_stack(address) || address - reinterpret_cast<uintptr_t>(&emu_now) < sizeof emu_now;
}
bool is_constant(uintptr_t address) {
  return std::any_of(constants.begin(), constants.end(),
                     [&](const Constants& c) { return address >= c.begin && address < c.end; });
}
}  // namespace

void check_access(uintptr_t address, unsigned bytes, int access, void* site) {
  if (!current || !check_mode || is_own(address)) return;
  Range* range = find_range(address, bytes);
  if (!range) {
    if (access == EMU_READ && is_constant(address)) return;
    add_report(find_region(address) && find_region(address)->freed ? "use after free" : "out of bounds", site,
               "%s of %u bytes %s", VERB[access], bytes, describe(address).c_str());
    abandon_launch();
  }
  bool power_of_two = !(bytes & (bytes - 1));
  if (power_of_two && bytes <= 16 && address % bytes)
    add_report("misaligned access", site, "%s of %u bytes at %s+%lu", VERB[access], bytes, range->name.c_str(),
               static_cast<unsigned long>(address - range->begin));
  Access now;
  now.block = block_number;
  now.epoch = block_epoch;
  now.warp_clock = current->warp_clock;
  now.clock = current->clock;
  now.site = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(site) - site_base);
  now.thread = static_cast<uint16_t>(current->number);
  now.manner = access == EMU_ATOMIC_ACCESS ? Access::ATOMIC : Access::PLAIN;
  for (uintptr_t word = address & ~uintptr_t(3); word < address + bytes; word += 4) {
    uintptr_t first = std::max(word, address), last = std::min(word + 4, address + bytes);
    now.bytes = static_cast<uint8_t>(((1u << (last - first)) - 1) << (first - word));
    check_word(range->region->word(word), now, Checked{*range, first, access, site});
  }
}

// An address in words; in fast mode no names are known.
std::string place_of(uintptr_t address) {
  const Range* range = find_range(address, 1);
  return range ? range->name + "+" + std::to_string(address - range->begin) : "at address " + std::to_string(address);
}
void report_misaligned(uintptr_t address, void* site) {
  add_report("misaligned access", site, "a vector at %s", place_of(address).c_str());
}

void mark_copying(void* shared, unsigned bytes, bool copying) {
  auto begin = reinterpret_cast<uintptr_t>(shared);
  Range* range = find_range(begin, bytes);
  if (!range) return;
  for (uintptr_t word = begin; word < begin + bytes; word += 4) {
    Word& shadow = range->region->word(word);
    shadow.copying = copying ? 15 : 0;
    if (copying) shadow.defined = 0;
  }
}

void mark_flying(void* shared, unsigned bytes) {
  auto begin = reinterpret_cast<uintptr_t>(shared);
  Range* range = find_range(begin, bytes);
  for (uintptr_t word = begin; range && word < begin + bytes; word += 4) {
    range->region->word(word).flying = 15;
    range->region->word(word).defined = 0;
  }
}
void mark_landed(void* shared, unsigned bytes, uint32_t clock, void* site) {
  Access landing;
  landing.block = block_number;
  landing.epoch = block_epoch;
  landing.clock = clock;
  landing.site = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(site) - site_base);
  landing.thread = COPY_ENGINE;
  landing.bytes = 15;
  auto begin = reinterpret_cast<uintptr_t>(shared);
  Range* range = find_range(begin, bytes);
  for (uintptr_t address = begin; range && address < begin + bytes; address += 4) {
    Word& word = range->region->word(address);
    word.written = landing;
    word.defined = 15;
    word.flying = 0;
  }
}

void begin_launch_checks(uintptr_t dynamic_shared, size_t dynamic_bytes) {
  first_block = block_number + 1;
  last_range = 0;
  if (!dynamic_bytes) return;
  dynamic = std::make_unique<Region>(dynamic_shared, dynamic_bytes, "dynamic shared memory", SHARED);
  ranges.push_back({dynamic->begin, dynamic->end, dynamic.get(), dynamic->name});
}
void begin_block_checks() {
  for (Range& range : ranges)
    if (range.region->is_shared())
      for (Word& word : range.region->words) word.defined = word.copying = word.flying = 0;
}
void end_launch_checks() {
  ranges.clear();
  constants.clear();
  dynamic.reset();
}

// ---- called by emulator/runtime.py ----
extern "C" {
void emu_add_region(uintptr_t begin, size_t bytes, int device, const char* name) {
  regions.insert(first_after(begin), std::make_unique<Region>(begin, bytes, name, device));
}
unsigned emu_region_count() { return static_cast<unsigned>(regions.size()); }
void emu_remove_region(uintptr_t begin) {
  regions.erase(std::remove_if(regions.begin(), regions.end(),
                               [&](const std::unique_ptr<Region>& region) { return region->begin == begin; }),
                regions.end());
}
void emu_mark_freed(uintptr_t begin) {
  if (Region* region = find_region(begin)) region->freed = true;
}
void emu_mark_defined(uintptr_t begin, size_t bytes, int defined) {
  Region* region = find_region(begin);
  if (!region) return;
  for (uintptr_t address = begin; address < begin + bytes;) {  // the first and last word may belong to others in part
    uintptr_t word = address & ~uintptr_t(3), end = std::min(word + 4, begin + bytes);
    auto mask = static_cast<uint8_t>(((1u << (end - address)) - 1) << (address - word));
    uint8_t& bits = region->word(word).defined;
    bits = defined ? bits | mask : bits & ~mask;
    address = end;
  }
}
// After bytes have been copied: the target is defined where the source was.
void emu_copy_defined(uintptr_t target, uintptr_t source, size_t bytes) {
  Region *to = find_region(target), *from = find_region(source);
  if (!to || !from) return;
  for (size_t i = 0; i < bytes; ++i) {
    unsigned from_byte = (source + i) & 3, to_byte = (target + i) & 3;
    bool defined = from->word(source + i).defined >> from_byte & 1;
    uint8_t& bits = to->word(target + i).defined;
    bits = static_cast<uint8_t>((bits & ~(1u << to_byte)) | (defined ? 1u << to_byte : 0u));
  }
}
// The offset of the first byte that nothing has written; `bytes` where all are.
size_t emu_first_undefined(uintptr_t begin, size_t bytes) {
  Region* region = find_region(begin);
  for (size_t i = 0; region && i < bytes; ++i)
    if (!(region->word(begin + i).defined >> ((begin + i) & 3) & 1)) return i;
  return bytes;
}
// What the next launch may touch: parts of regions, whole shared variables, and its library's read-only data.
void emu_allow(uintptr_t begin, size_t bytes, const char* name) {
  if (Region* region = find_region(begin)) ranges.push_back({begin, begin + bytes, region, name});
}
void emu_allow_constants(uintptr_t begin, uintptr_t end) { constants.push_back({begin, end}); }
// Where the next launch runs: on which device, and from which address on its library lies.
void emu_set_place(int number, uintptr_t base) {
  device = number;
  site_base = base;
}
void emu_forget_allowed() { end_launch_checks(); }
}
