// What the parts of the runtime know of each other: fibers, reports, and the calls between scheduler and memory.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

// A copy that was asked for and has not been waited for.
struct AsyncCopy {
  void* shared;
  const void* global;
  unsigned bytes, source_bytes, group;
  void* site;
};

// How many releases of each thread are known, at its `knowledge_index`.
using Knowledge = std::vector<uint32_t>;
constexpr unsigned COPY_ENGINE = 0xffff;  // in place of a thread's number, what brings bulk copies
inline size_t knowledge_index(unsigned thread) { return thread == COPY_ENGINE ? 0 : thread + 1; }

// One thread of the block that runs.
struct Fiber {
  enum State : uint8_t { READY, AT_BARRIER, IN_WARP_OPERATION, AT_MBARRIER, DONE };
  void* stack_pointer;
  char* stack;
  EmuIndex index;
  unsigned number, lane, warp;
  State state;
  // At a barrier: where, and where to put the votes.
  const char* file;
  int line;
  int* votes;
  // In a warp operation.
  void* handed_in;
  EmuExchange exchange;
  unsigned mask;
  void* site;
  unsigned warp_clock;  // the __syncwarp of the whole warp that lie behind this thread
  unsigned copy_group;
  std::vector<AsyncCopy> copies;
  // Through mbarriers; the one that it waits at, and the parity of the phase.
  Knowledge known;
  uint32_t clock;
  uintptr_t awaited;
  unsigned parity;
};

// One finding, as emulator/runtime.py reads it. Addresses of code are turned into source lines there.
struct EmuReport {
  char kind[32];
  char text[480];
  uint64_t site, earlier_site;
  char file[256];  // where the line is known without an address
  uint32_t line, thread;
  EmuIndex block;
  uint32_t times;
};

extern Fiber* current;        // null while no kernel runs
extern bool check_mode;       // of the launch that runs
extern unsigned block_epoch;  // barriers that lie behind the block
extern uint32_t block_number; // blocks run so far by this process

// ---- report.cpp ----
void clear_reports();
EmuReport* add_report(const char* kind, void* site, const char* format, ...) __attribute__((format(printf, 3, 4)));
unsigned report_count();
void set_place(EmuReport* report, const char* file, int line, unsigned thread);

// ---- scheduler.cpp ----
[[noreturn]] void abandon_launch();
bool launch_abandoned();
bool on_a_stack(uintptr_t address);
bool on_own_stack(uintptr_t address);
void reserve_stacks();
void set_order(int order, unsigned seed);
void run_block(unsigned threads, void (*entry)(void**), void** arguments);
void finish_copies(Fiber* fiber, unsigned first_group_left);
void wait_for_phase(uintptr_t barrier, unsigned parity, void* site);
void wake_waiting(uintptr_t barrier, unsigned phases_complete);

// ---- mbarrier.cpp ----
bool mbarriers_in_use();
void forget_mbarriers();
void share_knowledge(const std::vector<Fiber*>& fibers);
bool land_bulk_copy();
void report_flying();
void report_missing(const Fiber& fiber);

// ---- memory.cpp ----
void check_access(uintptr_t address, unsigned bytes, int access, void* site);
std::string place_of(uintptr_t address);
void report_misaligned(uintptr_t address, void* site);
void mark_copying(void* shared, unsigned bytes, bool copying);
void mark_flying(void* shared, unsigned bytes);
void mark_landed(void* shared, unsigned bytes, uint32_t clock, void* site);
void begin_launch_checks(uintptr_t dynamic_shared, size_t dynamic_bytes);
void begin_block_checks();
void end_launch_checks();
