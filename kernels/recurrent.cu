// What one step of an LSTM or an RNN does beside its matrix products. (Formulas: layer/recurrent.py)
//
// Layout: states (N, H), gates (N, 4H) in the order i, f, o, g, cont (N); n = N H.
// Mapping: one thread for each state. Bound: memory; forward 48 bytes a state, backward 56; at the usual sizes, a few
// thousand states, the launch.
#include "division.cuh"
#include "elementwise.cuh"

DEVICE float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }  // cannot overflow

// From the gates' sums (plus `statics`, unless null) to their activations, c and h. The activation of f has cont in
// it, as Caffe's. Also writes `before`, unless null: what the next step multiplies with its weights, which is h, or
// nothing of it where a stream begins anew.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
lstm_forward(unsigned n, unsigned hidden, uint64 hidden_r, const float* sums, const float* statics, const float* cont,
             const float* c_prev, float* gates, float* c, float* h, const float* next_cont, float* before) {
  for_each_pack<1>(n, [&](int64 at, auto) {
    unsigned stream = static_cast<unsigned>(at);
    const unsigned unit = Divisor{hidden, hidden_r}.split(stream);
    const int64 first = int64(stream) * 4 * hidden + unit;
    float gate[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float sum = sums[first + k * hidden];
      if (statics) sum += statics[first + k * hidden];
      gate[k] = k < 3 ? sigmoid(sum) : tanhf(sum);
    }
    gate[1] *= cont[stream];
#pragma unroll
    for (int k = 0; k < 4; ++k) gates[first + k * hidden] = gate[k];
    const float state = gate[1] * c_prev[at] + gate[0] * gate[3];
    const float output = gate[2] * tanhf(state);
    c[at] = state;
    h[at] = output;
    if (before) before[at] = output * next_cont[stream];
  });
}

// From the gradients of c and h to those of the gates' sums and of c_prev. dh = dy + product next_cont, where `product`
// is what came back through the next step's weights. dc_prev may be dc. Null: dc, dy, product (for zeros); dgates and
// dc_prev (left out).
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
lstm_backward(unsigned n, unsigned hidden, uint64 hidden_r, const float* gates, const float* c_prev, const float* c,
              const float* dc, const float* dy, const float* product, const float* next_cont, float* dgates,
              float* dc_prev) {
  for_each_pack<1>(n, [&](int64 at, auto) {
    unsigned stream = static_cast<unsigned>(at);
    const unsigned unit = Divisor{hidden, hidden_r}.split(stream);
    const int64 first = int64(stream) * 4 * hidden + unit;
    const float i = gates[first], f = gates[first + hidden], o = gates[first + 2 * hidden];
    const float g = gates[first + 3 * hidden], tanh_c = tanhf(c[at]);
    float dh = dy ? dy[at] : 0.0f;
    if (product) dh += product[at] * next_cont[stream];
    const float through = (dc ? dc[at] : 0.0f) + dh * o * (1 - tanh_c * tanh_c);
    if (dgates) {
      dgates[first] = through * g * i * (1 - i);
      dgates[first + hidden] = through * c_prev[at] * f * (1 - f);
      dgates[first + 2 * hidden] = dh * tanh_c * o * (1 - o);
      dgates[first + 3 * hidden] = through * i * (1 - g * g);
    }
    if (dc_prev) dc_prev[at] = through * f;
  });
}

// h = tanh(h + statics), and `before` as in lstm_forward.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
rnn_forward(unsigned n, unsigned hidden, uint64 hidden_r, const float* statics, float* h, const float* next_cont,
            float* before) {
  for_each_pack<1>(n, [&](int64 at, auto) {
    unsigned stream = static_cast<unsigned>(at);
    Divisor{hidden, hidden_r}.split(stream);
    const float output = tanhf(h[at] + (statics ? statics[at] : 0.0f));
    h[at] = output;
    if (before) before[at] = output * next_cont[stream];
  });
}

// dsums = (dsums + product next_cont) (1 - h^2).
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
rnn_backward(unsigned n, unsigned hidden, uint64 hidden_r, const float* h, const float* product, const float* next_cont,
             float* dsums) {
  for_each_pack<1>(n, [&](int64 at, auto) {
    unsigned stream = static_cast<unsigned>(at);
    Divisor{hidden, hidden_r}.split(stream);
    float dh = dsums[at];
    if (product) dh += product[at] * next_cont[stream];
    dsums[at] = dh * (1 - h[at] * h[at]);
  });
}
