// What compiled kernels and the emulator's runtime know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

struct EmuIndex {
  unsigned x, y, z;
};

// The thread that runs now, and its block. Kernels read it as threadIdx, blockIdx, blockDim and gridDim.
struct EmuNow {
  EmuIndex thread, block, block_size, grid_size;
  unsigned lane;
  char* dynamic_shared;
};

enum EmuAccess : int { EMU_READ, EMU_WRITE, EMU_ATOMIC_ACCESS };

// Runs once for all lanes that take part in a warp operation: lanes[i] is what lane i handed in, or null.
using EmuExchange = void (*)(void** lanes, unsigned mask);

extern "C" {
extern EmuNow emu_now;
void emu_block_barrier(int vote, int* votes, const char* file, int line);
// orders: whether memory accesses before the meeting happen before those after it, as for __syncwarp.
void emu_warp_meet(unsigned mask, void* mine, EmuExchange exchange, bool orders, void* site);
void emu_check(const void* address, unsigned bytes, int access, void* site);
// As emu_check, for a vector: the compiler may leave out of a load what is not used, a GPU does not.
void emu_check_vector(const void* address, unsigned bytes, int access);
void emu_copy_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes, void* site);
void emu_copy_commit();
void emu_copy_wait(unsigned groups_left);
void emu_mbarrier_init(void* word, unsigned arrivals, void* site);
void emu_mbarrier_arrive(void* word, unsigned expected_bytes, void* site);
void emu_mbarrier_wait(void* word, unsigned parity, void* site);
void emu_bulk_copy(void* shared, const void* global, unsigned bytes, void* word, void* site);
[[noreturn]] void emu_fail(const char* kind, const char* text, void* site);
}

#define EMU_SITE __builtin_return_address(0)
// What stands for hardware is not itself checked, only what it does to memory.
#define EMU_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))
#define EMU_OPERATION EMU_UNCHECKED __attribute__((noinline)) static
#ifdef EMU_CHECK_MODE
#define EMU_REPORT_ACCESS(address, bytes, access, site) emu_check(address, bytes, access, site)
#define EMU_REPORT_VECTOR(address, bytes, access) emu_check_vector(address, bytes, access)
#else
#define EMU_REPORT_VECTOR(address, bytes, access) (void)0
#define EMU_REPORT_ACCESS(address, bytes, access, site) (void)(site)
#endif
