// Runs a block: each of its threads is a fiber, which runs until it waits for others. Barriers and warp operations
// are where fibers change; there is no lock-step, so a kernel that relies on one shows a race.
#include <sys/mman.h>

#include <algorithm>
#include <random>

#include "internal.h"

#ifndef __x86_64__
#error "the emulator switches fibers on x86-64 only"
#endif

// Saves the registers that a call must keep, stores the stack pointer to *save, and goes on where `load` was saved.
extern "C" void emu_switch_stack(void** save, void* load);
asm(R"(.text
.type emu_switch_stack,@function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack,.-emu_switch_stack)");

Fiber* current = nullptr;
unsigned block_epoch = 0;
uint32_t block_number = 0;
extern "C" {
EmuNow emu_now;
}

namespace {
// Below each stack lie pages that nobody may touch, more than the largest frame that the compiler is allowed: a stack
// that overflows stops the launch.
constexpr size_t STACK_BYTES = 64 * 1024, GUARD_BYTES = 36 * 1024, SLOT_BYTES = GUARD_BYTES + STACK_BYTES;
constexpr unsigned MOST_THREADS = 1024, WARP = 32;

struct Warp {
  unsigned arrived = 0, alive = 0;
};
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<unsigned> ready;  // in the order in which they run; next_ready is the first that has not
size_t next_ready;
unsigned alive, at_barrier;
int votes;
char* stacks = nullptr;
void* launcher_stack;
bool abandoned;
void (*kernel_entry)(void**);
void** kernel_arguments;
enum Order { FORWARD, BACKWARD, RANDOM } order = FORWARD;
std::mt19937 shuffle_source;

void make_ready(Fiber& fiber) {
  fiber.state = Fiber::READY;
  ready.push_back(fiber.number);
}
void apply_order(size_t from) {
  if (order == BACKWARD) std::reverse(ready.begin() + from, ready.end());
  if (order == RANDOM) std::shuffle(ready.begin() + from, ready.end(), shuffle_source);
}

void report_divergent_barrier() {
  const Fiber* first = nullptr;
  for (const Fiber& fiber : fibers) {
    if (fiber.state != Fiber::AT_BARRIER) continue;
    if (!first) first = &fiber;
    if (fiber.line == first->line && fiber.file == first->file) continue;
    EmuReport* report = add_report("divergent barrier", nullptr,
                                   "thread %u waits at the __syncthreads of line %d while thread %u waits at "
                                   "that of line %d",
                                   first->number, first->line, fiber.number, fiber.line);
    set_place(report, fiber.file, fiber.line, fiber.number);
    return;
  }
}
void release_barrier() {
  if (check_mode) report_divergent_barrier();
  ++block_epoch;
  ready.clear();
  next_ready = 0;
  std::vector<Fiber*> met;
  for (Fiber& fiber : fibers) {
    if (fiber.state != Fiber::AT_BARRIER) continue;
    if (fiber.votes) *fiber.votes = votes;
    make_ready(fiber);
    if (mbarriers_in_use()) met.push_back(&fiber);
  }
  share_knowledge(met);
  votes = 0;
  at_barrier = 0;
  apply_order(0);
}
void report_deadlock() {
  for (const Fiber& fiber : fibers)
    if (fiber.state == Fiber::AT_MBARRIER) report_missing(fiber);  // once for each line
  for (const Fiber& fiber : fibers) {
    if (fiber.state != Fiber::IN_WARP_OPERATION) continue;
    EmuReport* report = add_report("deadlock", fiber.site,
                                   "of %u running threads %u wait at __syncthreads, while thread %u waits in "
                                   "a warp operation of mask %08x for lanes that never come",
                                   alive, at_barrier, fiber.number, fiber.mask);
    report->thread = fiber.number;
    return;
  }
}

// The next fiber to run; null when all are done or nothing can go on.
Fiber* pick() {
  for (;;) {
    if (next_ready < ready.size()) return &fibers[ready[next_ready++]];
    if (!alive) return nullptr;
    if (at_barrier == alive) {
      release_barrier();
      continue;
    }
    if (land_bulk_copy()) continue;
    report_deadlock();
    abandoned = true;
    return nullptr;
  }
}
void enter(Fiber* fiber) {
  current = fiber;
  emu_now.thread = fiber->index;
  emu_now.lane = fiber->lane;
}
void back_to_launcher(void** save) {
  current = nullptr;
  emu_switch_stack(save, launcher_stack);
}
void wait() {
  Fiber *mine = current, *next = pick();
  if (next == mine) return;
  if (!next) return back_to_launcher(&mine->stack_pointer);
  enter(next);
  emu_switch_stack(&mine->stack_pointer, next->stack_pointer);
}
void fiber_main() {
  kernel_entry(kernel_arguments);
  Fiber* mine = current;
  if (check_mode && !mine->copies.empty())
    add_report("unwaited cp.async", mine->copies.back().site,
               "the thread ends with %zu copies that it never waited for", mine->copies.size());
  mine->state = Fiber::DONE;
  --alive;
  warps[mine->warp].alive &= ~(1u << mine->lane);
  void* never_resumed;
  Fiber* next = pick();
  if (!next) back_to_launcher(&never_resumed);
  enter(next);
  emu_switch_stack(&never_resumed, next->stack_pointer);
  __builtin_unreachable();
}
void prepare(Fiber& fiber, unsigned number) {
  const EmuIndex& size = emu_now.block_size;
  fiber.number = number;
  fiber.lane = number % WARP;
  fiber.warp = number / WARP;
  fiber.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
  fiber.stack = stacks + number * SLOT_BYTES + GUARD_BYTES;
  fiber.warp_clock = fiber.copy_group = 0;
  fiber.copies.clear();
  fiber.known.clear();
  fiber.clock = 1;
  // What emu_switch_stack pops: six registers, then where to go. A function is entered with rsp % 16 == 8.
  void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_main);
  top -= 6;
  std::fill(top, top + 6, nullptr);
  fiber.stack_pointer = top;
}
}  // namespace

bool on_a_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(stacks) < MOST_THREADS * SLOT_BYTES;
}
bool on_own_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(current->stack) < STACK_BYTES;
}
void abandon_launch() {
  abandoned = true;
  void* never_resumed;
  back_to_launcher(&never_resumed);
  __builtin_unreachable();
}
bool launch_abandoned() { return abandoned; }
void set_order(int wanted, unsigned seed) {
  order = static_cast<Order>(wanted);
  shuffle_source.seed(seed);
}
void reserve_stacks() {
  if (stacks) return;
  stacks = static_cast<char*>(mmap(nullptr, MOST_THREADS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (unsigned i = 0; i < MOST_THREADS; ++i) mprotect(stacks + i * SLOT_BYTES, GUARD_BYTES, PROT_NONE);
}
void run_block(unsigned threads, void (*entry)(void**), void** arguments) {
  abandoned = false;
  kernel_entry = entry;
  kernel_arguments = arguments;
  fibers.resize(threads);
  warps.assign((threads + WARP - 1) / WARP, Warp{});
  ready.clear();
  next_ready = 0;
  alive = threads;
  at_barrier = block_epoch = 0;
  votes = 0;
  if (check_mode) ++block_number;
  forget_mbarriers();
  for (unsigned i = 0; i < threads; ++i) {
    prepare(fibers[i], i);
    warps[fibers[i].warp].alive |= 1u << fibers[i].lane;
    make_ready(fibers[i]);
  }
  apply_order(0);
  Fiber* first = pick();
  enter(first);
  emu_switch_stack(&launcher_stack, first->stack_pointer);
  if (check_mode && !abandoned) report_flying();
}
void wait_for_phase(uintptr_t barrier, unsigned parity, void* site) {
  current->state = Fiber::AT_MBARRIER;
  current->awaited = barrier;
  current->parity = parity;
  current->site = site;
  wait();
}
void wake_waiting(uintptr_t barrier, unsigned phases_complete) {
  size_t from = ready.size();
  for (Fiber& fiber : fibers)
    if (fiber.state == Fiber::AT_MBARRIER && fiber.awaited == barrier && (phases_complete & 1) != fiber.parity)
      make_ready(fiber);
  apply_order(from);
}
void finish_copies(Fiber* fiber, unsigned first_group_left) {
  auto& copies = fiber->copies;
  size_t n = 0;
  for (; n < copies.size() && copies[n].group < first_group_left; ++n) {
    AsyncCopy& copy = copies[n];
    if (check_mode) {
      mark_copying(copy.shared, copy.bytes, false);
      check_access(reinterpret_cast<uintptr_t>(copy.shared), copy.bytes, EMU_WRITE, copy.site);
    }
    char* target = static_cast<char*>(copy.shared);
    __builtin_memcpy(target, copy.global, copy.source_bytes);
    __builtin_memset(target + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  }
  copies.erase(copies.begin(), copies.begin() + n);
}

// ---- called by kernels ----
extern "C" {
void emu_block_barrier(int vote, int* result, const char* file, int line) {
  current->state = Fiber::AT_BARRIER;
  current->file = file;
  current->line = line;
  current->votes = result;
  votes += vote;
  ++at_barrier;
  wait();
}

void emu_warp_meet(unsigned mask, void* mine, EmuExchange exchange, bool orders, void* site) {
  Fiber* me = current;
  Warp& warp = warps[me->warp];
  if (!(mask >> me->lane & 1)) emu_fail("bad mask", "a warp operation's mask lacks the lane that calls it", site);
  // A last warp that is not full has lanes that never existed; naming them is allowed.
  unsigned lanes_in_warp = std::min<unsigned>(WARP, fibers.size() - me->warp * WARP);
  if (lanes_in_warp < WARP) mask &= (1u << lanes_in_warp) - 1;
  if (mask & ~warp.alive) emu_fail("bad mask", "a warp operation's mask names lanes that have ended", site);
  me->handed_in = mine;
  me->exchange = exchange;
  me->mask = mask;
  me->site = site;
  warp.arrived |= 1u << me->lane;
  if ((warp.arrived & mask) != mask) {
    me->state = Fiber::IN_WARP_OPERATION;
    wait();
    return;
  }
  void* lanes[WARP];
  Fiber* first = &fibers[me->warp * WARP];
  unsigned clock = 0;
  for (unsigned i = 0; i < WARP; ++i) {
    lanes[i] = nullptr;
    if (!(mask >> i & 1)) continue;
    if (first[i].exchange != exchange || first[i].mask != mask)
      emu_fail("bad mask", "lanes of one warp meet in different operations, or with different masks", site);
    lanes[i] = first[i].handed_in;
    clock = std::max(clock, first[i].warp_clock);
  }
  exchange(lanes, mask);
  warp.arrived &= ~mask;
  size_t from = ready.size();
  std::vector<Fiber*> met;
  for (unsigned i = 0; i < WARP; ++i) {
    if (!(mask >> i & 1)) continue;
    if (orders && mask == warp.alive) first[i].warp_clock = clock + 1;
    if (orders && mbarriers_in_use()) met.push_back(&first[i]);
    if (&first[i] != me) make_ready(first[i]);
  }
  share_knowledge(met);
  apply_order(from);
}

void emu_copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes, void* site) {
  if (check_mode) {
    auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
    if (source_bytes) check_access(from, source_bytes, EMU_READ, site);
    if (to % bytes || from % bytes)
      add_report("misaligned access", site, "cp.async of %u bytes between unaligned addresses", bytes);
    // The write may land at once or as late as the wait: it is checked now and again when it is waited for.
    check_access(to, bytes, EMU_WRITE, site);
    mark_copying(shared, bytes, true);
  }
  current->copies.push_back({shared, global, bytes, source_bytes, current->copy_group, site});
}
void emu_copy_commit() { ++current->copy_group; }
void emu_copy_wait(unsigned groups_left) {
  if (current->copy_group > groups_left) finish_copies(current, current->copy_group - groups_left);
}
void emu_fail(const char* kind, const char* text, void* site) {
  if (!site) site = current->site;  // inside an exchange: where its last lane arrived
  add_report(kind, site, "%s", text);
  abandon_launch();
}
}
