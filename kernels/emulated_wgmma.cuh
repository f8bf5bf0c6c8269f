// The CPU bodies of wgmma.cuh. A product is computed as late as the rules allow, when its group is waited for, by each
// of the four warps for its own 16 rows; what it reads is checked when it begins and again then. Not modelled: that all
// four warps must take part, and that what is not published may be missed.
#pragma once

extern "C" {
unsigned emu_block_serial();                    // a number for each block that has run
void emu_count_products(int more, void* site);  // of this thread, that are under way
}

struct EmuWgmma {
  float* d;
  const char *a, *b;
  int row0, columns, byte;
  unsigned group;
  EmuExchange exchange;
  void* site;
};
// The products of one thread that it has not waited for. Those of a block that has ended are forgotten.
struct EmuWgmmaQueue {
  static constexpr unsigned MOST = 64;
  EmuWgmma waiting[MOST];
  unsigned count, groups, block;
};
static EmuWgmmaQueue emu_wgmma_queues[1024];

EMU_UNCHECKED inline EmuWgmmaQueue& emu_wgmma_queue() {
  EmuWgmmaQueue& queue = emu_wgmma_queues[emu_now.thread.x];
  if (queue.block != emu_block_serial()) {
    queue.block = emu_block_serial();
    queue.count = queue.groups = 0;
  }
  return queue;
}
template <class T>
EMU_UNCHECKED inline float emu_wgmma_number(const char* tile, int row, int byte) {
  T number;
  memcpy(&number, tile + wgmma_offset(row, byte / 16 * 16) + byte % 16, sizeof number);
  if constexpr (sizeof(T) == 4)
    return EmuTf32::get(__float_as_uint(number), 0);
  else
    return to_float(number);
}
// Each lane reports 16 bytes of its warp's rows of A, and its share of B.
EMU_UNCHECKED inline void emu_report_wgmma(const EmuWgmma& mine) {
  const int lane = int(emu_now.lane);
  EMU_REPORT_ACCESS(mine.a + wgmma_offset(mine.row0 + lane / 2, mine.byte + lane % 2 * 16), 16, EMU_READ, mine.site);
  for (int i = lane; i < mine.columns * 2; i += 32)
    EMU_REPORT_ACCESS(mine.b + wgmma_offset(i / 2, mine.byte + i % 2 * 16), 16, EMU_READ, mine.site);
}
template <class T, int N>
EMU_UNCHECKED static void emu_exchange_wgmma(void** lanes, unsigned mask) {
  constexpr int K = 32 / sizeof(T);
  emu_need_full_warp(mask);
  const auto* first = static_cast<EmuWgmma*>(lanes[0]);
  float A[16][K], B[K][N], C[16][N] = {};
  for (int k = 0; k < K; ++k) {
    const int byte = first->byte + k * int(sizeof(T));
    for (int i = 0; i < 16; ++i) A[i][k] = emu_wgmma_number<T>(first->a, first->row0 + i, byte);
    for (int j = 0; j < N; ++j) B[k][j] = emu_wgmma_number<T>(first->b, j, byte);
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < N; ++j) C[i][j] += A[i][k] * B[k][j];
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<EmuWgmma*>(lanes[lane])->d;
    for (int i = 0; i < N / 2; ++i) d[i] += C[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
  }
}

inline void wgmma_publish() {}
inline void wgmma_begin() {}
EMU_OPERATION void wgmma_commit() { ++emu_wgmma_queue().groups; }
template <int GROUPS_LEFT>
EMU_OPERATION void wgmma_wait() {
  EmuWgmmaQueue& queue = emu_wgmma_queue();
  unsigned done = 0;
  for (; done < queue.count && queue.waiting[done].group + GROUPS_LEFT < queue.groups; ++done) {
    EmuWgmma mine = queue.waiting[done];
    emu_report_wgmma(mine);
    emu_warp_meet(FULL_WARP, &mine, mine.exchange, false, mine.site);
  }
  queue.count -= done;
  emu_count_products(-int(done), nullptr);
  memmove(queue.waiting, queue.waiting + done, queue.count * sizeof(EmuWgmma));
}
template <class T, int SUMS>
EMU_OPERATION void wgmma_m64(float (&d)[SUMS], const T* a_tile, const T* b_tile, int byte) {
  EmuWgmmaQueue& queue = emu_wgmma_queue();
  static_assert(SUMS == 64 || SUMS == 128);
  if ((reinterpret_cast<uintptr_t>(a_tile) | reinterpret_cast<uintptr_t>(b_tile)) % WGMMA_TILE_ALIGNMENT)
    emu_fail("misaligned access", "a tile of wgmma begins at no multiple of 1024 bytes", EMU_SITE);
  if (queue.count == EmuWgmmaQueue::MOST) emu_fail("unwaited wgmma", "too many products are under way", EMU_SITE);
  const int row0 = int(emu_now.thread.x) / 32 % 4 * 16;
  queue.waiting[queue.count] = {d, reinterpret_cast<const char*>(a_tile), reinterpret_cast<const char*>(b_tile),
                                row0, 2 * SUMS, byte, queue.groups, emu_exchange_wgmma<T, 2 * SUMS>, EMU_SITE};
  emu_report_wgmma(queue.waiting[queue.count++]);
  emu_count_products(1, EMU_SITE);
}
