// Copies from global to shared memory that run while the thread goes on (cp.async, sm_80). A copy belongs to the group
// that the next cp_async_commit closes; cp_async_wait<N> returns when at most N groups of this thread are left.
#pragma once
#if NETC_GPU
// Copies BYTES (4, 8 or 16) bytes between addresses that are multiples of BYTES. Where `wanted` is false zeros are
// written and nothing is read; the source must still be a valid address.
template <int BYTES>
DEVICE void cp_async(void* shared, const void* global, bool wanted = true) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int read = wanted ? BYTES : 0;
  if constexpr (BYTES == 16)  // 16 bytes can pass by the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(read) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(global), "n"(BYTES), "r"(read)
                 : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS_LEFT>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}
#else
// The emulator copies as late as the rules allow: when the group is waited for.
template <int BYTES>
EMU_OPERATION void cp_async(void* shared, const void* global, bool wanted = true) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  emu_copy_async(shared, global, BYTES, wanted ? BYTES : 0, EMU_SITE);
}
DEVICE void cp_async_commit() { emu_copy_commit(); }
template <int GROUPS_LEFT>
DEVICE void cp_async_wait() {
  emu_copy_wait(GROUPS_LEFT);
}
#endif
