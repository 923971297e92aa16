// How a layer runs, over the vectors of an instruction set: each source of one includes this, with its own flags.
//
// The including source defines, in a namespace of its own: FLOATS, the floats of a register; LANES and VECTORS, the
// 64-bit words of a register of counts and how many of these stand beside each other; PIXELS, the windows of a tile; and
//   template <int V, Product product>
//   void tile(const uint64_t* const* x, const Runs& runs, const uint64_t* w, int32_t* counts, bool more);
// which counts PIXELS windows, at x[PIXELS], against V * LANES outputs into counts[PIXELS][V * LANES], as 2 * counts +
// new if `more`.

typedef float Floats __attribute__((vector_size(4 * FLOATS)));
typedef int32_t Ints __attribute__((vector_size(4 * FLOATS)));
typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

#if defined(__clang__) || __GNUC__ >= 12
#define BITWISE_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define BITWISE_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, FourInts{i, j, k, l})
#endif

static constexpr int BLOCK = 32;  // windows whose counts are held before they are written

static_assert(BLOCK % PIXELS == 0 && BLOCK % 4 == 0, "tiles and transposes fill a block");

// Adding this rounds a float in [0, 255] half to even into the lowest bits of the sum.
static constexpr float ROUNDER = 12582912.0f;

static inline uint32_t integer_of(float x, float inverse_step, float highest) {
  float steps = x * inverse_step;
  steps = steps > 0 ? steps : 0;
  steps = steps < highest ? steps : highest;
  float rounded = steps + ROUNDER;
  uint32_t bits;
  std::memcpy(&bits, &rounded, 4);
  return bits & 0xFF;
}

static inline Ints integers_of(Floats x, float inverse_step, float highest) {
  Floats steps = x * inverse_step;
  steps = (Floats)((Ints)steps & (steps > 0.0f));
  Floats limit = Floats{} + highest;
  Ints below = steps < limit;
  steps = (Floats)(((Ints)steps & below) | ((Ints)limit & ~below));
  return (Ints)(steps + ROUNDER) & 0xFF;
}

// The bits of up to 32 channels of GROUPS * FLOATS pixels, a pixel in a lane: in planes, the lowest first.
template <int PLANES, int GROUPS>
static inline void bits_of(const Prepared& all, const float* x, int64_t size, int64_t channel, int count,
                           Ints (*bits)[PLANES]) {
  const float* thresholds = all.threshold.data() + channel;
  float highest = float((1 << all.layer.activation_bits) - 1);
  bool sign = all.layer.sign;
  for (int i = 0; i < count; ++i) {
    int32_t one = int32_t(uint32_t{1} << i);
    float threshold = thresholds[i];
    for (int g = 0; g < GROUPS; ++g) {
      Floats values;
      std::memcpy(&values, x + (channel + i) * size + g * FLOATS, sizeof values);
      if (sign) {
        bits[g][0] |= (values >= threshold) & one;
      } else {
        Ints integers = integers_of(values, threshold, highest);
        for (int j = 0; j < PLANES; ++j) bits[g][j] |= ((integers & (1 << j)) != 0) & one;
      }
    }
  }
}

static inline uint32_t bits_of_pixel(const Prepared& all, const float* x, int64_t step, int64_t channel, int count,
                                     int plane) {
  uint32_t bits = 0;
  float highest = float((1 << all.layer.activation_bits) - 1);
  for (int i = 0; i < count; ++i) {
    float value = x[(channel + i) * step], threshold = all.threshold[channel + i];
    uint32_t bit = all.layer.sign ? value >= threshold : integer_of(value, threshold, highest) >> plane & 1;
    bits |= bit << i;
  }
  return bits;
}

static inline void store_bits(uint8_t* to, uint32_t bits, int bytes) {
  if (bytes == 4) {
    std::memcpy(to, &bits, 4);
  } else {
    for (int i = 0; i < bytes; ++i) to[i] = uint8_t(bits >> (8 * i));
  }
}

template <int PLANES, int GROUPS>
static inline void pack_pixels(const Prepared& all, const float* x, int64_t size, int64_t channel, int count,
                               const int64_t* places, int64_t plane, uint8_t* to) {
  Ints bits[GROUPS][PLANES] = {};
  bits_of<PLANES, GROUPS>(all, x, size, channel, count, bits);
  int planes = int(all.layer.activation_bits);  // at most PLANES
  for (int g = 0; g < GROUPS; ++g)
    for (int j = 0; j < PLANES && j < planes; ++j)
      for (int i = 0; i < FLOATS; ++i)
        store_bits(to + j * plane + places[g * FLOATS + i], uint32_t(bits[g][j][i]), (count + 7) / 8);
}

// An image (C, size) -> [group][unit] bytes at the place of each pixel, in planes that are so many bytes apart.
template <int PLANES>
static void pack_image(const Prepared& all, const float* x, int64_t size, const int64_t* places, int64_t plane,
                       uint8_t* to) {
  constexpr int GROUPS = PLANES == 1 ? 4 : PLANES <= 4 ? 2 : 1;  // as many as there are registers for
  const Layer& layer = all.layer;
  for (int64_t g = 0; g < layer.group; ++g) {
    for (int64_t c = 0; c < layer.channels; c += 32) {
      int count = int(layer.channels - c < 32 ? layer.channels - c : 32);
      uint8_t* start = to + g * layer.unit() + c / 8;
      int64_t channel = g * layer.channels + c, p = 0;
      for (; p + GROUPS * FLOATS <= size; p += GROUPS * FLOATS)
        pack_pixels<PLANES, GROUPS>(all, x + p, size, channel, count, places + p, plane, start);
      for (; p < size && size >= FLOATS; p += FLOATS) {
        if (p + FLOATS > size) p = size - FLOATS;  // the last ones again, rather than one by one
        pack_pixels<PLANES, 1>(all, x + p, size, channel, count, places + p, plane, start);
      }
      for (; p < size; ++p)
        for (int j = 0; j < layer.activation_bits; ++j)
          store_bits(start + j * plane + places[p], bits_of_pixel(all, x + p, size, channel, count, j),
                     (count + 7) / 8);
    }
  }
}

// Rows (count, K) -> [plane][row][words].
static void pack_matrix(const Prepared& all, const float* x, int64_t count, uint64_t* to) {
  const Layer& layer = all.layer;
  int64_t words = layer.words();
  for (int64_t j = 0; j < layer.activation_bits; ++j) {
    for (int64_t p = 0; p < count; ++p) {
      uint8_t* row = reinterpret_cast<uint8_t*>(to + (j * count + p) * words);
      std::memset(row, 0, words * 8);
      for (int64_t c = 0; c < layer.channels; c += 32) {
        int n = int(layer.channels - c < 32 ? layer.channels - c : 32);
        store_bits(row + c / 8, bits_of_pixel(all, x + p * layer.channels, 1, c, n, int(j)), (n + 7) / 8);
      }
    }
  }
}

// A few bytes, without the call that a size which is not known costs.
static inline void copy_bytes(uint8_t* to, const uint8_t* from, int64_t size) {
  if (size == 6) return void(std::memcpy(to, from, 6));  // three taps of 16 channels; likewise of 32
  if (size == 12) return void(std::memcpy(to, from, 12));
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) std::memcpy(to + i, from + i, 16);
  if (i == size) return;
  if (size >= 16) {
    std::memcpy(to + size - 16, from + size - 16, 16);
  } else if (size >= 8) {
    std::memcpy(to, from, 8);
    std::memcpy(to + size - 8, from + size - 8, 8);
  } else {
    for (; i < size; ++i) to[i] = from[i];
  }
}

// The windows of group g of packed images -> [plane][window][words].
static void windows_of(const Layer& layer, const uint8_t* packed, int64_t g, int64_t height, int64_t width,
                       uint64_t* window) {
  int64_t unit = layer.unit(), pixel = layer.group * unit, words = layer.words(), taps = layer.kernel[1];
  int64_t out_h = output_size(layer, 0, height), out_w = output_size(layer, 1, width);
  bool joined = layer.group == 1 && layer.dilation[1] == 1;
  for (int64_t j = 0; j < layer.activation_bits; ++j, packed += height * width * pixel) {
    for (int64_t oy = 0; oy < out_h; ++oy) {
      for (int64_t ox = 0; ox < out_w; ++ox, window += words) {
        uint8_t* tap = reinterpret_cast<uint8_t*>(window);
        int64_t x = ox * layer.stride[1] - layer.pad[1];
        window[words - 1] = 0;
        for (int64_t ky = 0; ky < layer.kernel[0]; ++ky, tap += taps * unit) {
          int64_t y = oy * layer.stride[0] - layer.pad[0] + ky * layer.dilation[0];
          const uint8_t* line = packed + (y * width + x) * pixel + g * unit;
          bool inside = y >= 0 && y < height;
          if (joined && inside && x >= 0 && x + taps <= width) {
            copy_bytes(tap, line, taps * unit);
            continue;
          }
          for (int64_t kx = 0; kx < taps; ++kx) {
            int64_t at = x + kx * layer.dilation[1];
            if (inside && at >= 0 && at < width)
              copy_bytes(tap + kx * unit, line + kx * layer.dilation[1] * pixel, unit);
            else
              std::memset(tap + kx * unit, 0, unit);
          }
        }
      }
    }
  }
}

// What a task needs: the windows of one group of one image, and where their outputs go.
struct Job {
  const Prepared* all;
  const uint64_t* bits;
  int64_t plane;          // words
  const int64_t* places;  // of windows, in words
  Runs runs;
  int64_t group, count, height, width, out_w;
  float* y;         // of the group's first output
  int64_t step[2];  // between outputs, between windows
};

template <int V, Product product>
static void count_block(const Job& job, const uint64_t* weights, int64_t window, int32_t* counts) {
  int64_t planes = job.all->layer.activation_bits;
  for (int p = 0; p < BLOCK && window + p < job.count; p += PIXELS) {
    for (int64_t j = planes; j-- > 0;) {
      const uint64_t* x[PIXELS];
      for (int i = 0; i < PIXELS; ++i) x[i] = job.bits + j * job.plane + job.places[window + p + i];
      tile<V, product>(x, job.runs, weights, counts + p * V * LANES, j + 1 < planes);
    }
  }
}

// Adds to `base` what the taps of a window that lie in the padding count for: they are no -1, but nothing.
template <int N>
static bool take_padding_out(const Job& job, const Pass& pass, int64_t window, int64_t output, int n, int32_t* base) {
  const Layer& layer = job.all->layer;
  if (!layer.sign || !layer.convolution) return false;
  int64_t top = window / job.out_w * layer.stride[0] - layer.pad[0];
  int64_t left = window % job.out_w * layer.stride[1] - layer.pad[1];
  int64_t last_y = top + layer.dilation[0] * (layer.kernel[0] - 1);
  int64_t last_x = left + layer.dilation[1] * (layer.kernel[1] - 1);
  if (top >= 0 && left >= 0 && last_y < job.height && last_x < job.width) return false;
  const int32_t* taps = pass.taps.data() + output;
  for (int64_t ky = 0; ky < layer.kernel[0]; ++ky) {
    for (int64_t kx = 0; kx < layer.kernel[1]; ++kx, taps += layer.outputs) {
      int64_t y = top + ky * layer.dilation[0], x = left + kx * layer.dilation[1];
      if (y >= 0 && y < job.height && x >= 0 && x < job.width) continue;
      if (n == N)
        for (int i = 0; i < N; ++i) base[i] += taps[i];
      else
        for (int i = 0; i < n; ++i) base[i] += taps[i];
    }
  }
  return true;
}

// Counts of a window -> sums over its taps.
template <int N>
static inline void sums_of(const Job& job, const Pass& pass, const int32_t* base, int64_t window, int64_t output, int n,
                           int32_t* counts) {
  int32_t corrected[N];
  std::memcpy(corrected, base, sizeof corrected);
  if (take_padding_out<N>(job, pass, window, output, n, corrected)) base = corrected;
  int32_t factor = pass.factor;
  for (int i = 0; i < N; ++i) counts[i] = base[i] + factor * counts[i];
}

// values[BLOCK][N] -> y, where a row of y holds the windows of an output or the outputs of a window.
template <int N>
static void write(const float* values, int windows, int n, float* y, const int64_t* step) {
  int p = 0, whole = N % 4 == 0 && n == N && step[1] == 1 ? windows / 4 * 4 : 0;
  for (int i = 0; i < N && whole > 0; i += 4) {
    for (p = 0; p < whole; p += 4) {
      Four a, b, c, d;
      std::memcpy(&a, values + p * N + i, 16);
      std::memcpy(&b, values + (p + 1) * N + i, 16);
      std::memcpy(&c, values + (p + 2) * N + i, 16);
      std::memcpy(&d, values + (p + 3) * N + i, 16);
      Four ab = BITWISE_SHUFFLE(a, b, 0, 4, 1, 5), cd = BITWISE_SHUFFLE(c, d, 0, 4, 1, 5);
      Four ab2 = BITWISE_SHUFFLE(a, b, 2, 6, 3, 7), cd2 = BITWISE_SHUFFLE(c, d, 2, 6, 3, 7);
      Four columns[4] = {BITWISE_SHUFFLE(ab, cd, 0, 1, 4, 5), BITWISE_SHUFFLE(ab, cd, 2, 3, 6, 7),
                         BITWISE_SHUFFLE(ab2, cd2, 0, 1, 4, 5), BITWISE_SHUFFLE(ab2, cd2, 2, 3, 6, 7)};
      for (int k = 0; k < 4; ++k) std::memcpy(y + (i + k) * step[0] + p, &columns[k], 16);
    }
  }
  for (; p < windows; ++p)
    for (int i = 0; i < n; ++i) y[i * step[0] + p * step[1]] = values[p * N + i];
}

template <int V, Product product>
static void run_block(const Job& job, const uint64_t* weights, const uint64_t* second, int64_t vector) {
  constexpr int N = V * LANES;
  const Prepared& all = *job.all;
  int64_t outputs = all.layer.outputs_of_group(), inside = vector * LANES, output = job.group * outputs + inside;
  int n = int(outputs - inside < N ? outputs - inside : N);
  float scale[N] = {}, negative[N] = {}, bias[N] = {};
  int32_t base[N] = {}, second_base[N] = {};
  for (int i = 0; i < n; ++i) {
    scale[i] = all.scale[output + i];
    bias[i] = all.bias[output + i];
    base[i] = all.first.base[output + i];
    if (second != nullptr) second_base[i] = all.second.base[output + i];
    if (all.layer.two_scales) negative[i] = all.negative_scale[output + i];
  }
  alignas(64) int32_t sums[BLOCK * N], others[BLOCK * N];
  alignas(64) float values[BLOCK * N];
  for (int64_t window = 0; window < job.count; window += BLOCK) {
    int windows = int(job.count - window < BLOCK ? job.count - window : BLOCK);
    count_block<V, product>(job, weights, window, sums);
    if (second != nullptr) count_block<V, Product::And>(job, second, window, others);
    for (int p = 0; p < windows; ++p) {
      int32_t *a = sums + p * N, *b = others + p * N;
      float* to = values + p * N;
      sums_of<N>(job, all.first, base, window + p, output, n, a);
      if (second == nullptr) {
        for (int i = 0; i < N; ++i) to[i] = scale[i] * float(a[i]) + bias[i];
        continue;
      }
      sums_of<N>(job, all.second, second_base, window + p, output, n, b);
      if (all.layer.two_scales) {  // b counts what is not zero: positive plus negative sums
        for (int i = 0; i < N; ++i)
          to[i] = (scale[i] * float((b[i] + a[i]) / 2) - negative[i] * float((b[i] - a[i]) / 2)) + bias[i];
      } else {
        for (int i = 0; i < N; ++i) to[i] = scale[i] * float(a[i] - b[i]) + bias[i];
      }
    }
    write<N>(values, windows, n, job.y + inside * job.step[0] + window * job.step[1], job.step);
  }
}

template <int V>
static void run_vectors(const Job& job, int64_t vector) {
  const Prepared& all = *job.all;
  int64_t words = all.layer.words(), vectors = (all.layer.outputs_of_group() + LANES - 1) / LANES;
  int64_t place = (job.group * vectors + vector) * words * LANES;
  const uint64_t* second = all.has_second ? all.second.weights.data() + place : nullptr;
  if (all.first.product == Product::Xor)
    run_block<V, Product::Xor>(job, all.first.weights.data() + place, second, vector);
  else
    run_block<V, Product::XorAnd>(job, all.first.weights.data() + 2 * place, second, vector);
}

static void run_task(void* data, std::size_t index) {
  const Job& job = *static_cast<const Job*>(data);
  int64_t vectors = (job.all->layer.outputs_of_group() + LANES - 1) / LANES, wide = vectors / VECTORS;
  int64_t task = int64_t(index);
  if (task < wide)
    run_vectors<VECTORS>(job, task * VECTORS);
  else
    run_vectors<1>(job, wide * VECTORS + task - wide);
}

static void run_group(Job& job, const Parallel& parallel) {
  int64_t vectors = (job.all->layer.outputs_of_group() + LANES - 1) / LANES;
  parallel.run(parallel, std::size_t(vectors / VECTORS + vectors % VECTORS), run_task, &job);
}

static void pack(const Prepared& all, const float* x, int64_t size, const int64_t* places, int64_t plane,
                 uint8_t* to) {
  if (all.layer.activation_bits == 1) return pack_image<1>(all, x, size, places, plane, to);
  if (all.layer.activation_bits == 2) return pack_image<2>(all, x, size, places, plane, to);
  if (all.layer.activation_bits <= 4) return pack_image<4>(all, x, size, places, plane, to);
  pack_image<8>(all, x, size, places, plane, to);
}

// Memory of a thread that runs layers; it is kept.
struct Scratch {
  Buffer<uint64_t> windows, image;
  Buffer<int64_t> window_places, pixel_places;
};

static Scratch& scratch() {
  static thread_local Scratch memory;
  return memory;
}

// The places of the windows, `step` apart; a tile that is not full reads the last one again.
static const int64_t* places_in_order(int64_t count, int64_t step) {
  int64_t* places = scratch().window_places.reserve(count + PIXELS);
  for (int64_t p = 0; p < count + PIXELS; ++p) places[p] = (p < count ? p : count - 1) * step;
  return places;
}

static void run_linear(const Prepared& all, const float* x, int64_t count, float* y, const Parallel& parallel) {
  const Layer& layer = all.layer;
  int64_t words = layer.words();
  uint64_t* bits = scratch().windows.reserve(layer.activation_bits * count * words);
  pack_matrix(all, x, count, bits);
  Runs runs{1, 0, words};
  Job job{&all, bits, count * words, places_in_order(count, words), runs, 0, count, 1, 1, 1, y, {1, layer.outputs}};
  run_group(job, parallel);
}

// Whole words per pixel: windows are read where they are, in an image with the padding around it.
static void run_in_place(const Prepared& all, const float* x, int64_t count, int64_t height, int64_t width, float* y,
                         const Parallel& parallel) {
  const Layer& layer = all.layer;
  int64_t unit = layer.unit() / 8, size = height * width;
  int64_t line = (width + layer.pad[1] + layer.pad[3]) * unit, plane = (height + layer.pad[0] + layer.pad[2]) * line;
  int64_t out_h = output_size(layer, 0, height), out_w = output_size(layer, 1, width), found = out_h * out_w;
  int64_t* pixels = scratch().pixel_places.reserve(size);
  for (int64_t i = 0, p = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j, ++p) pixels[p] = ((i + layer.pad[0]) * line + (j + layer.pad[1]) * unit) * 8;
  int64_t* places = scratch().window_places.reserve(found + PIXELS);
  for (int64_t i = 0, p = 0; i < out_h; ++i)
    for (int64_t j = 0; j < out_w; ++j, ++p) places[p] = i * layer.stride[0] * line + j * layer.stride[1] * unit;
  for (int i = 0; i < PIXELS; ++i) places[found + i] = places[found - 1];
  uint64_t* image = scratch().image.reserve(layer.activation_bits * plane);
  std::memset(image, 0, layer.activation_bits * plane * 8);
  Runs runs{layer.kernel[0], layer.dilation[0] * line, layer.kernel[1] * unit};
  Job job{&all, image, plane, places, runs, 0, found, height, width, out_w, y, {found, 1}};
  for (int64_t n = 0; n < count; ++n, job.y += layer.outputs * found) {
    pack(all, x + n * layer.channels * size, size, pixels, plane * 8, reinterpret_cast<uint8_t*>(image));
    run_group(job, parallel);
  }
}

// Windows are copied side by side, so that taps of a few bytes fill words.
static void run_copied(const Prepared& all, const float* x, int64_t count, int64_t height, int64_t width, float* y,
                       const Parallel& parallel) {
  const Layer& layer = all.layer;
  int64_t size = height * width, pixel = layer.group * layer.unit(), words = layer.words();
  int64_t out_w = output_size(layer, 1, width), found = output_size(layer, 0, height) * out_w;
  int64_t* pixels = scratch().pixel_places.reserve(size);
  for (int64_t p = 0; p < size; ++p) pixels[p] = p * pixel;
  int64_t bytes = layer.activation_bits * size * pixel;
  uint8_t* image = reinterpret_cast<uint8_t*>(scratch().image.reserve((bytes + 7) / 8));
  uint64_t* windows = scratch().windows.reserve(layer.activation_bits * found * words);
  const int64_t* places = places_in_order(found, words);
  Job job{&all, windows, found * words, places, {1, 0, words}, 0, found, height, width, out_w, y, {found, 1}};
  for (int64_t n = 0; n < count; ++n) {
    pack(all, x + n * layer.group * layer.channels * size, size, pixels, size * pixel, image);
    for (job.group = 0; job.group < layer.group; ++job.group) {
      windows_of(layer, image, job.group, height, width, windows);
      job.y = y + (n * layer.outputs + job.group * layer.outputs_of_group()) * found;
      run_group(job, parallel);
    }
  }
}

static void run_layer(const Prepared& all, const float* x, int64_t count, int64_t height, int64_t width, float* y,
                      const Parallel& parallel) {
  const Layer& layer = all.layer;
  if (!layer.convolution) return run_linear(all, x, count, y, parallel);
  if (layer.group == 1 && layer.unit() % 8 == 0 && layer.dilation[1] == 1)
    return run_in_place(all, x, count, height, width, y, parallel);
  run_copied(all, x, count, height, width, y, parallel);
}
