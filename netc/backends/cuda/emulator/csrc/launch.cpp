// One launch: block after block over poisoned shared memory, and a way back from a stray access in fast mode.
#include <csignal>
#include <cstring>
#include <sys/mman.h>

#include "internal.h"

bool check_mode = false;

namespace {
constexpr size_t DYNAMIC_BYTES = 228 * 1024, MARGIN = 4096, SIGNAL_STACK_BYTES = 64 * 1024;
constexpr int POISON = 0xff;  // as a float, a NaN

// Whole pages, enough for any launch. Dynamic shared memory ends at a page that nobody may touch, and so does what lies before it.
char* dynamic_memory() {
  static char* memory = [] {
    auto* base = static_cast<char*>(
        mmap(nullptr, DYNAMIC_BYTES + 2 * MARGIN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base, MARGIN, PROT_NONE);
    mprotect(base + MARGIN + DYNAMIC_BYTES, MARGIN, PROT_NONE);
    return base + MARGIN;
  }();
  return memory;
}

// A kernel that touches memory it may not, or divides by zero: its launch ends with a report, not the process.
void on_fault(int signal, siginfo_t* info, void* context) {
  if (!current) {
    ::signal(signal, SIG_DFL);  // not ours: it happens again, and ends the process as it would have
    return;
  }
#ifdef __x86_64__
  void* site = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
#endif
  auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (signal == SIGFPE) {  // check mode has reported it before it happened
    if (!check_mode)
      add_report("undefined behaviour", site, "an integer is divided by zero, or its quotient overflows");
  } else if (on_a_stack(address))
    add_report("stack overflow", site, "the thread's local variables do not fit the 64 KB that the emulator gives it");
  else
    add_report("out of bounds", site, "access to address %#lx, which belongs to no buffer", address);
  abandon_launch();
}
class FaultGuard {
 public:
  FaultGuard() {
    static char stack[SIGNAL_STACK_BYTES];
    stack_t mine{};
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    sigaltstack(&mine, &stack_before);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < COUNT; ++i) sigaction(SIGNALS[i], &action, &before[i]);
  }
  ~FaultGuard() {
    for (int i = 0; i < COUNT; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }

 private:
  static constexpr int COUNT = 3, SIGNALS[COUNT] = {SIGSEGV, SIGBUS, SIGFPE};
  struct sigaction before[COUNT];
  stack_t stack_before;
};
}  // namespace

struct EmuShared {
  uintptr_t begin;
  size_t bytes;
};
struct EmuLaunch {
  void (*entry)(void**);
  void** arguments;
  EmuIndex grid, block;
  size_t dynamic_bytes;
  const EmuShared* shared;  // the kernel's static shared variables
  unsigned shared_count;
  int check, order;
  unsigned seed;
};

extern "C" {
// Returns how many different findings there are.
unsigned emu_launch(const EmuLaunch* launch) {
  reserve_stacks();
  clear_reports();
  set_order(launch->order, launch->seed);
  check_mode = launch->check;
  const EmuIndex &grid = launch->grid, &block = launch->block;
  emu_now.block_size = block;
  emu_now.grid_size = grid;
  // At the end of the memory, so that what runs over faults even in fast mode.
  emu_now.dynamic_shared = dynamic_memory() + DYNAMIC_BYTES - (launch->dynamic_bytes + 127) / 128 * 128;
  if (check_mode) begin_launch_checks(reinterpret_cast<uintptr_t>(emu_now.dynamic_shared), launch->dynamic_bytes);
  FaultGuard guard;
  bool stop = false;
  for (unsigned z = 0; z < grid.z && !stop; ++z)
    for (unsigned y = 0; y < grid.y && !stop; ++y)
      for (unsigned x = 0; x < grid.x && !stop; ++x) {
        emu_now.block = {x, y, z};
        for (unsigned i = 0; i < launch->shared_count; ++i)
          memset(reinterpret_cast<void*>(launch->shared[i].begin), POISON, launch->shared[i].bytes);
        memset(emu_now.dynamic_shared, POISON, launch->dynamic_bytes);
        if (check_mode) begin_block_checks();
        run_block(block.x * block.y * block.z, launch->entry, launch->arguments);
        stop = launch_abandoned();
      }
  if (check_mode) end_launch_checks();
  check_mode = false;
  return report_count();
}
}
