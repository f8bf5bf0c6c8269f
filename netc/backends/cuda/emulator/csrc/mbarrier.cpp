// mbarriers, and the copies that tell them how many bytes have come (cp.async.bulk, sm_90). A copy lands as late as the
// rules allow: when no thread can go on without it. Beside them a count of products that are under way (wgmma), which
// kernels' libraries compute themselves.
//
// What a thread knows of others through mbarriers: for each of them how many of its releases lie behind it. An arrival
// releases what its thread has done and knows; who has waited for a phase knows all that its arrivals released.
#include <algorithm>
#include <deque>
#include <map>

#include "internal.h"

namespace {
constexpr unsigned MOST_BYTES = (1 << 20) - 1, MOST_ARRIVALS = (1 << 20) - 1;  // of one phase, as in hardware

struct Barrier {
  unsigned arrivals, pending;  // of a phase; still to come in this one
  long bytes = 0;              // that are expected and have not come; below zero: came and are not expected yet
  unsigned phase = 0;          // how many are complete
  Knowledge released, complete;
};
struct BulkCopy {
  char* shared;
  const char* global;
  unsigned bytes;
  uintptr_t barrier;
  unsigned phase;
  void* site;
  unsigned thread;
};
std::map<uintptr_t, Barrier> barriers;  // of the block that runs
std::deque<BulkCopy> flying;
uint32_t landed;  // copies so far, the clock of their writes
unsigned block_serial;
// Products that threads of the block have begun and not waited for; where and by whom the last was begun.
struct {
  long count;
  void* site;
  unsigned thread;
} products;

void learn(Knowledge& mine, const Knowledge& other) {
  if (mine.size() < other.size()) mine.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) mine[i] = std::max(mine[i], other[i]);
}
void note(Knowledge& all, unsigned thread, uint32_t clock) {
  size_t i = knowledge_index(thread);
  if (all.size() <= i) all.resize(i + 1);
  all[i] = std::max(all[i], clock);
}
void complete_phase(uintptr_t address, Barrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.complete = barrier.released;
  barrier.pending = barrier.arrivals;
  ++barrier.phase;
  wake_waiting(address, barrier.phase);
}
Barrier& find_barrier(void* word, void* site) {
  auto address = reinterpret_cast<uintptr_t>(word);
  auto found = barriers.find(address);
  if (found == barriers.end()) emu_fail("wrong mbarrier", "it has not been initialised", site);
  check_access(address, 8, EMU_ATOMIC_ACCESS, site);
  return found->second;
}
}  // namespace

bool mbarriers_in_use() { return !barriers.empty(); }
void forget_mbarriers() {
  barriers.clear();
  flying.clear();
  products = {};
  ++block_serial;
}
// They have met: what each has done and knows, all know.
void share_knowledge(const std::vector<Fiber*>& fibers) {
  Knowledge all;
  for (Fiber* fiber : fibers) {
    learn(all, fiber->known);
    note(all, fiber->number, fiber->clock++);
  }
  for (Fiber* fiber : fibers) fiber->known = all;
}

// One copy; false where none is on its way.
bool land_bulk_copy() {
  if (flying.empty()) return false;
  BulkCopy copy = flying.front();
  flying.pop_front();
  Barrier& barrier = barriers.at(copy.barrier);
  ++landed;
  if (check_mode) mark_landed(copy.shared, copy.bytes, landed, copy.site);
  __builtin_memcpy(copy.shared, copy.global, copy.bytes);
  if (barrier.phase != copy.phase) {
    EmuReport* report = add_report("wrong byte count", copy.site,
                                   "a bulk copy of %u bytes comes after the phase of its mbarrier: more bytes were "
                                   "copied than were expected",
                                   copy.bytes);
    report->thread = copy.thread;
  }
  barrier.bytes -= copy.bytes;
  note(barrier.released, COPY_ENGINE, landed);
  complete_phase(copy.barrier, barrier);
  return true;
}
void report_flying() {
  if (products.count) {
    EmuReport* report = add_report("unwaited wgmma", products.site,
                                   "the block ends while %ld products of threads have not been waited for", products.count);
    report->thread = products.thread;
  }
  if (flying.empty()) return;
  EmuReport* report = add_report("unwaited bulk copy", flying.front().site,
                                 "the block ends with %zu bulk copies that no thread waited for", flying.size());
  report->thread = flying.front().thread;
}
void report_missing(const Fiber& fiber) {
  const Barrier& barrier = barriers.at(fiber.awaited);
  std::string place = place_of(fiber.awaited);
  EmuReport* report =
      barrier.bytes < 0 ? add_report("deadlock", fiber.site, "waits for mbarrier %s, to which %ld bytes more came than expected",
                                     place.c_str(), -barrier.bytes)
                        : add_report("deadlock", fiber.site, "waits for mbarrier %s: arrivals missing: %u, bytes missing: %ld",
                                     place.c_str(), barrier.pending, barrier.bytes);
  report->thread = fiber.number;
}

// ---- called by kernels ----
extern "C" {
unsigned emu_block_serial() { return block_serial; }
void emu_count_products(int more, void* site) {
  products.count += more;
  if (more > 0) products = {products.count, site, current->number};
}
void emu_mbarrier_init(void* word, unsigned arrivals, void* site) {
  auto address = reinterpret_cast<uintptr_t>(word);
  check_access(address, 8, EMU_WRITE, site);
  if (!arrivals || arrivals > MOST_ARRIVALS) emu_fail("wrong mbarrier", "its number of arrivals is out of bounds", site);
  barriers[address] = Barrier{arrivals, arrivals, 0, 0, {}, {}};
}
void emu_mbarrier_arrive(void* word, unsigned bytes, void* site) {
  Barrier& barrier = find_barrier(word, site);
  if (bytes > MOST_BYTES) emu_fail("wrong mbarrier", "it cannot count so many bytes", site);
  if (!barrier.pending) emu_fail("wrong mbarrier", "more threads arrive in a phase than it was initialised for", site);
  learn(barrier.released, current->known);
  note(barrier.released, current->number, current->clock++);
  barrier.bytes += bytes;
  --barrier.pending;
  complete_phase(reinterpret_cast<uintptr_t>(word), barrier);
}
void emu_mbarrier_wait(void* word, unsigned parity, void* site) {
  Barrier& barrier = find_barrier(word, site);
  if ((barrier.phase & 1) == (parity & 1)) wait_for_phase(reinterpret_cast<uintptr_t>(word), parity & 1, site);
  learn(current->known, barrier.complete);
}
void emu_bulk_copy(void* shared, const void* global, unsigned bytes, void* word, void* site) {
  Barrier& barrier = find_barrier(word, site);
  auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  if (!bytes || bytes % 16 || to % 16 || from % 16)
    emu_fail("misaligned access", "a bulk copy's addresses and size must be multiples of 16 bytes", site);
  check_access(from, bytes, EMU_READ, site);
  check_access(to, bytes, EMU_WRITE, site);  // the write may land at once
  if (check_mode) mark_flying(shared, bytes);
  flying.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes,
                    reinterpret_cast<uintptr_t>(word), barrier.phase, site, current->number});
}
}
