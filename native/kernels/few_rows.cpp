// Products of few rows with every row of a right factor [N, K], as generating a token needs them. The right factor is read once, from
// memory, as it lies, and sums run along K.
#include <algorithm>
#include <array>

#include "gemm.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Turns `columns` sums of one row into results and stores them: times alpha, plus the addend, rounded.
void store_row(const Product& p, int64_t row, int64_t column, int64_t columns, const float* __restrict sums) {
  const int64_t at = row * p.n + column;
  alignas(64) float buffer[2][kColumns];
  const float* old = p.addend ? load(*p.addend, at, columns, buffer[0]) : nullptr;
  float* out = target(*p.out, at, buffer[1]);
  if (old)
    for (int64_t i = 0; i < columns; i++) out[i] = old[i] + p.alpha * sums[i];
  else
    for (int64_t i = 0; i < columns; i++) out[i] = p.alpha * sums[i];
  store(*p.out, at, columns, out);
}

// So many numbers of a right factor are worth a piece of work of their own.
constexpr int64_t kLeastWork = 32768;

// The structs that follow say how the numbers of a right factor leave memory: a chunk of kVectors vectors at a time, in the order that
// takes the fewest instructions. The left factors are brought into that order once: `place(n)` is the place in memory of the number that
// comes n-th. With kPairs a lane has two neighbours of that order, in bf16.
struct Floats {
  static constexpr bool kPairs = false;
  static constexpr int kVectors = 4;
  static constexpr int place(int n) { return n; }

  explicit Floats(const Product& p) : data(f32_at(*p.b.tensor, 0)) {}
  const float* data;

  void load(int64_t element, Lanes (&w)[kVectors]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) w[v] = lanes_at(data + element + v * kLanes);
  }
};

// Numbers of bf16. Where they become floats, the even ones of a vector come before the odd ones.
struct HalfFloats {
  static constexpr bool kPairs = kHasPairs;
  static constexpr int kVectors = kPairs && kLanes == 16 ? 2 : 4;
  static constexpr int place(int n) { return kPairs ? n : n / (2 * kLanes) * 2 * kLanes + n % kLanes * 2 + n / kLanes % 2; }

  explicit HalfFloats(const Product& p) : data(half_at(*p.b.tensor, 0)) {}
  const uint16_t* data;

  void load(int64_t element, Lanes (&w)[kVectors]) const {
    if constexpr (kPairs) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) w[v] = lanes_at(data + element + v * 2 * kLanes);
    } else {
      spread(lanes_at(data + element), w[0], w[1]);
      spread(lanes_at(data + element + 2 * kLanes), w[2], w[3]);
    }
  }
  static void spread(Lanes halves, Lanes& even, Lanes& odd) {
    even = (Lanes)((LaneBits)halves << 16);
    odd = (Lanes)((LaneBits)halves & 0xffff0000);
  }
};

#if defined(__AVX2__) || defined(__aarch64__)
// Codes of 4 bits, as bf16. The sixteen numbers that a scale allows are rounded once for 64 codes, which then pick them, whole or byte by
// byte.
struct Nibbles {
  static constexpr bool kPairs = kHasPairs;
  static constexpr int kNumbers = 64, kVectors = kNumbers / kLanes / (kPairs ? 2 : 1);
  static bool serves(const Product& p) {
    return p.b.codes && !p.b.codes->wide && p.form != Form::exact && p.k % kNumbers == 0 && p.b.codes->block >= 6;
  }

  const Codes& codes;
#if defined(__AVX512F__)
  static constexpr int place(int n) {
    constexpr int kFirst[] = {0, 2, 1, 3};
    return kPairs ? n % 32 * 2 + n / 32 : n % 16 * 4 + kFirst[n / 16];
  }

  explicit Nibbles(const Product& p) : codes(*p.b.codes) {}

  void load(int64_t element, Lanes (&w)[kVectors]) const {
    const __m256i rounded = round_lanes(_mm512_mul_ps(_mm512_loadu_ps(codes.values), _mm512_set1_ps(codes.scale(element))));
    // The table has the numbers twice, so that an index needs no mask for the bit above its four. The first of two codes is in the high
    // half of a byte.
    const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(rounded), rounded, 1);
    const __m512i bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes.data + element / 2)));
    const auto even = (Lanes)_mm512_permutexvar_epi16(_mm512_srli_epi16(bytes, 4), table);
    const auto odd = (Lanes)_mm512_permutexvar_epi16(bytes, table);
    if constexpr (kPairs) {
      w[0] = even;
      w[1] = odd;
    } else {
      HalfFloats::spread(even, w[0], w[1]);
      HalfFloats::spread(odd, w[2], w[3]);
    }
  }
#elif defined(__aarch64__)
  // Of each sixteen bytes the codes at even places come first, in two vectors of eight, and then those at odd places. As floats each eight
  // give their even ones and then their odd ones.
  static constexpr int place(int n) {
    const int word = kPairs ? n : n / 8 * 8 + n % 4 * 2 + n / 4 % 2;
    return word / 32 * 32 + word % 16 * 2 + word / 16 % 2;
  }

  explicit Nibbles(const Product& p) : codes(*p.b.codes) {}

  void load(int64_t element, Lanes (&w)[kVectors]) const {
    const float scale = codes.scale(element);
    const auto words = [&](int i) {
      const auto four = [&](int j) { return (uint16x8_t)round_lanes(lanes_at(codes.values + j) * scale); };
      return (uint8x16_t)vuzp2q_u16(four(i), four(i + 4));
    };
    const uint8x16_t first = words(0), last = words(8), low = vuzp1q_u8(first, last), high = vuzp2q_u8(first, last);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      const auto choose = [&](uint8x16_t index, Lanes* to) __attribute__((always_inline)) {
        const uint8x16_t l = vqtbl1q_u8(low, index), h = vqtbl1q_u8(high, index);
        const auto some = (Lanes)vzip1q_u8(l, h), others = (Lanes)vzip2q_u8(l, h);
        if constexpr (kPairs) {
          to[0] = some;
          to[1] = others;
        } else {
          HalfFloats::spread(some, to[0], to[1]);
          HalfFloats::spread(others, to[2], to[3]);
        }
      };
      // The first of two codes is in the high half of a byte.
      const uint8x16_t bytes = vld1q_u8(codes.data + element / 2 + 16 * i);
      choose(vshrq_n_u8(bytes, 4), w + i * kVectors / 2);
      choose(vandq_u8(bytes, vdupq_n_u8(15)), w + i * kVectors / 2 + kVectors / 4);
    }
  }
#else
  // Four vectors of codes at even places come first, then four of those at odd ones. Two vectors take the first eight of each half's
  // sixteen bytes, and each of the two every other one of those; the next two take the last eight.
  static constexpr int place(int n) {
    const int vector = n / 8 % 4, byte = n % 8 / 4 * 16 + vector / 2 * 8 + n % 4 * 2 + vector % 2;
    return 2 * byte + n / 32;
  }

  explicit Nibbles(const Product& p) : codes(*p.b.codes) {
    for (int i = 0; i < kLanes; i++) even[i] = codes.values[2 * i], odd[i] = codes.values[2 * i + 1];
  }
  Lanes even, odd;

  void load(int64_t element, Lanes (&w)[kVectors]) const {
    const float scale = codes.scale(element);
    const auto rounded = [&](Lanes values) {
      const LaneBits u = (LaneBits)(values * scale);
      return (__m256i)(u + 0x7fff + (u >> 16 & 1));
    };
    const __m256i words = _mm256_blend_epi16(_mm256_srli_epi32(rounded(even), 16), rounded(odd), 0xaa);
    const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi8(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0));
    const __m256i bytes = _mm256_shuffle_epi8(words, order);
    const __m256i low = _mm256_permute4x64_epi64(bytes, 0x88), high = _mm256_permute4x64_epi64(bytes, 0xdd);
    // The first of two codes is in the high half of a byte.
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes.data + element / 2));
    const __m256i four = _mm256_set1_epi8(15);
    const auto choose = [&](__m256i index, Lanes* to) {
      const __m256i l = _mm256_shuffle_epi8(low, index), h = _mm256_shuffle_epi8(high, index);
      HalfFloats::spread((Lanes)_mm256_unpacklo_epi8(l, h), to[0], to[1]);
      HalfFloats::spread((Lanes)_mm256_unpackhi_epi8(l, h), to[2], to[3]);
    };
    choose(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), four), w);
    choose(_mm256_and_si256(pairs, four), w + 4);
    // Rounding the sixteen numbers may lose that a scale is NaN.
    w[0] += Lanes{} * scale;
  }
#endif
};
#endif

// Numbers of any kind, rounded where the form asks for it.
struct Numbers {
  static constexpr bool kPairs = false;
  static constexpr int kVectors = 1;
  static constexpr int place(int n) { return n; }

  explicit Numbers(const Product& p) : p(p) {}
  const Product& p;

  void load(int64_t element, Lanes (&w)[kVectors]) const { w[0] = load(element, kLanes); }
  Lanes load(int64_t element, int64_t n) const {
    const auto x = p.b.codes ? (Lanes)p.b.codes->lanes(element, n) : (Lanes)load_lanes(*p.b.tensor, element, first(n));
    return p.form == Form::exact ? x : round_floats(x);
  }
};

template <bool Pairs>
inline Lanes add_products(Lanes sum, Lanes a, Lanes b) {
#if defined(__AVX512BF16__)
  if constexpr (Pairs) return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if constexpr (Pairs) {
    asm("bfdot %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
  }
#endif
  return sum + a * b;
}

// The left factors: whole chunks as units in the order of the right factor, and what is left of K as floats.
template <class Weights>
struct Left {
  static constexpr int kChunk = Weights::kVectors * kLanes * (Weights::kPairs ? 2 : 1);  // the numbers of a chunk
  int64_t whole, units, stride;
  uint32_t* data;

  Left(const Product& p, Pool& pool)
      : whole(p.k / kChunk * kChunk), units(whole / (Weights::kPairs ? 2 : 1)), stride(units + round_up(p.k - whole, kLanes)) {
    data = static_cast<uint32_t*>(pool.scratch(0, Slot::shared, p.m * stride * 4));
    static constexpr auto kOrder = [] {
      std::array<int, kChunk> order{};
      for (int n = 0; n < kChunk; n++) order[n] = Weights::place(n);
      return order;
    }();
    float numbers[kChunk];
    for (int64_t row = 0; row < p.m; row++) {
      uint32_t* to = data + row * stride;
      const auto load = [&](int64_t k, int64_t n) {
        const auto x = (Lanes)load_lanes(*p.a.tensor, p.a.element(row, k), first(n));
        return p.form == Form::exact ? x : round_floats(x);
      };
      for (int64_t k = 0; k < whole; k += kChunk) {
        for (int i = 0; i < kChunk; i += kLanes) put_lanes(numbers + i, load(k + i, kLanes));
        for (int i = 0; i < kChunk; i++) {
          const float x = numbers[kOrder[i]];
          if constexpr (Weights::kPairs) reinterpret_cast<uint16_t*>(to)[k + i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
          else to[k + i] = std::bit_cast<uint32_t>(x);
        }
      }
      for (int64_t k = whole; k < p.k; k += kLanes) put_lanes(to + units + k - whole, load(k, p.k - k));
    }
  }
};

// Computes columns [begin, end) of the rows [row, row + Rows) of out.
template <int Rows, class Weights>
void multiply_rows(const Product& p, const Weights& weights, const Left<Weights>& left, int64_t begin, int64_t end, int64_t row) {
  constexpr int kVectors = Weights::kVectors, kChunk = Left<Weights>::kChunk;
  // Sums of a row: enough to hide how long an addition takes.
  constexpr int kSums = std::min(kVectors, Rows == 1 ? 4 : Rows == 2 ? 2 : 1);
  const uint32_t* a = left.data + row * left.stride;
  const Numbers rest(p);
  float results[Rows][kColumns];
  for (int64_t at = begin; at < end; at += kColumns) {
    const int64_t columns = std::min<int64_t>(kColumns, end - at);
    for (int64_t column = 0; column < columns; column++) {
      Lanes sums[Rows][kSums] = {};
      const int64_t element = p.b.element(at + column, 0);
      const uint32_t* x = a;
      for (int64_t k = 0; k < left.whole; k += kChunk, x += kVectors * kLanes) {
        Lanes w[kVectors];
        weights.load(element + k, w);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; v++)
#pragma GCC unroll 4
          for (int r = 0; r < Rows; r++)
            sums[r][v % kSums] = add_products<Weights::kPairs>(sums[r][v % kSums], lanes_at(x + r * left.stride + v * kLanes), w[v]);
      }
      for (int64_t k = left.whole; k < p.k; k += kLanes, x += kLanes) {
        const Lanes w = rest.load(element + k, p.k - k);
        for (int r = 0; r < Rows; r++) sums[r][0] += w * lanes_at(x + r * left.stride);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
        for (int i = 1; i < kSums; i++) sums[r][0] += sums[r][i];
        results[r][column] = sum_of(sums[r][0]);
      }
    }
    for (int r = 0; r < Rows; r++) store_row(p, row + r, at, columns, results[r]);
  }
}

template <class Weights>
void multiply_with(const Product& p, Pool& pool) {
  const Left<Weights> left(p, pool);
  // Each thread gets as many pieces, or there is one piece where the work does not pay for waking the others.
  const int64_t threads = p.n * p.k < 2 * kLeastWork ? 1 : pool.threads();
  const int64_t pieces = threads * std::clamp<int64_t>(p.n * p.k / (kLeastWork * pool.threads()), 1, 4);
  const int64_t grain = round_up((p.n + pieces - 1) / pieces, 4);
  pool.ranges(p.n, grain, [&](int64_t begin, int64_t end, int) {
    const Weights weights(p);
    for (int64_t row = 0; row < p.m; row += 4) switch (p.m - row) {
        case 1: multiply_rows<1>(p, weights, left, begin, end, row); break;
        case 2: multiply_rows<2>(p, weights, left, begin, end, row); break;
        case 3: multiply_rows<3>(p, weights, left, begin, end, row); break;
        default: multiply_rows<4>(p, weights, left, begin, end, row);
      }
  });
}

void multiply(const Product& p, Pool& pool) {
#if defined(__AVX2__) || defined(__aarch64__)
  if (Nibbles::serves(p)) return multiply_with<Nibbles>(p, pool);
#endif
  if (!p.b.codes && p.b.tensor->dtype == DType::bf16) return multiply_with<HalfFloats>(p, pool);
  if (!p.b.codes && p.form == Form::exact) return multiply_with<Floats>(p, pool);
  multiply_with<Numbers>(p, pool);
}

}  // namespace

void multiply_few_rows(const Product& p, Pool& pool) {
  Product base = p;
  base.branch = nullptr;
  base.form = p.form == Form::exact || p.form == Form::parts ? Form::exact : Form::rounded;
  multiply(base, pool);
  if (!p.branch || p.branch->rank == 0) return;
  const auto& [down, up, h, scale, in, out, mask_scale, rank] = *p.branch;
  multiply({.a = p.a, .b = down, .out = h, .m = p.m, .n = rank, .k = p.k, .form = base.form, .alpha = scale}, pool);
  base.a = Factor::left(*h, false);
  base.b = up;
  base.k = rank;
  base.addend = p.out;
  multiply(base, pool);
}

}  // namespace lowrank::LOWRANK_ISA
