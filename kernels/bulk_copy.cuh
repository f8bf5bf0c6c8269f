// Copies from global to shared memory by an engine of its own (cp.async.bulk, sm_90), and the mbarriers that tell when
// they have come.
//
// An mbarrier counts phases. A phase is complete when so many threads have arrived as it was initialised for, and when
// as many bytes have come as they said to expect. `mbarrier_wait(b, parity)` returns when phase number `parity`, modulo
// 2, is complete: 0 for the first, 1 for the second, and so on; before the first, a wait for parity 1 returns at once.
// What a thread did before it arrived, and what was copied, is there for all that have waited.
// Order: one thread initialises the mbarriers and calls mbarrier_publish, then a __syncthreads.
#pragma once

struct alignas(8) MBarrier {
  uint64 word;
};

#if NETC_GPU
DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
DEVICE void mbarrier_init(MBarrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Initialised mbarriers become visible to the copying engine.
DEVICE void mbarrier_publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(MBarrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and says how many more bytes this phase has to wait for.
DEVICE void mbarrier_expect(MBarrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
DEVICE void mbarrier_wait(MBarrier* b, int parity) {
  asm volatile(
      "{.reg .pred complete; again: mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1; @!complete bra again;}" ::"r"(
          shared_address(b)),
      "r"(parity)
      : "memory");
}
// Copies so many bytes; they and both addresses are multiples of 16. One thread calls it.
DEVICE void bulk_copy(void* shared, const void* global, int bytes, MBarrier* b) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(b))
      : "memory");
}
#else
EMU_OPERATION void mbarrier_init(MBarrier* b, int arrivals) { emu_mbarrier_init(b, arrivals, EMU_SITE); }
DEVICE void mbarrier_publish() {}
EMU_OPERATION void mbarrier_arrive(MBarrier* b) { emu_mbarrier_arrive(b, 0, EMU_SITE); }
EMU_OPERATION void mbarrier_expect(MBarrier* b, int bytes) { emu_mbarrier_arrive(b, bytes, EMU_SITE); }
EMU_OPERATION void mbarrier_wait(MBarrier* b, int parity) { emu_mbarrier_wait(b, parity, EMU_SITE); }
EMU_OPERATION void bulk_copy(void* shared, const void* global, int bytes, MBarrier* b) {
  emu_bulk_copy(shared, global, bytes, b, EMU_SITE);
}
#endif
