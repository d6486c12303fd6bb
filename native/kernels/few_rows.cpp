// Products of few rows with every row of a right factor [N, K], as decoding a token makes them: the factor is read once, from memory, as it lies. Sums
// run along K.
#include <algorithm>

#include "product.h"

namespace lowrank::LOWRANK_ISA {

namespace {

// Brings `columns` sums of one row home: alpha, addend, rounding.
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

#if defined(__AVX512F__)
// Products of `rows` ≤ 4 rows with every row of b [N,K], read once from memory: sums along K.
template <bool Pairs, int Rows>
void few_rows(const Product& p, const uint32_t* a, int64_t stride, int64_t begin, int64_t end, int64_t row0) {
  const int64_t per_load = Pairs ? 32 : 16;
  for (int64_t column = begin; column < end; column++) {
    __m512 sums[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) sums[r] = _mm512_setzero_ps();
    for (int64_t k = 0, unit = 0; k < p.k; k += per_load, unit += 16) {
      const __m512i units = load_units<false>(p.b, column, k, p.k - k, p.form);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
        const __m512i row = _mm512_loadu_si512(a + r * stride + unit);
#if defined(__AVX512BF16__)
        if constexpr (Pairs) {
          sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)row, (__m512bh)units);
          continue;
        }
#endif
        sums[r] = _mm512_fmadd_ps(_mm512_castsi512_ps(row), _mm512_castsi512_ps(units), sums[r]);
      }
    }
    for (int r = 0; r < Rows; r++) {
      const float sum = _mm512_reduce_add_ps(sums[r]);
      store_row(p, row0 + r, column, 1, &sum);
    }
  }
}

void multiply_rows(const Product& p, Pool& pool) {
  const int64_t stride = (steps_of(p.form, p.k) + 15) / 16 * 16;
  auto* a = static_cast<uint32_t*>(pool.scratch(0, 0, p.m * stride * 4));
  const int64_t per_load = p.form == Form::pairs ? 32 : 16;
  for (int64_t row = 0; row < p.m; row++)
    for (int64_t k = 0, unit = 0; k < p.k; k += per_load, unit += 16)
      _mm512_storeu_si512(a + row * stride + unit, load_units<false>(p.a, row, k, p.k - k, p.form));
  const int64_t grain = std::max<int64_t>(16, 65536 / std::max<int64_t>(1, p.k));
  pool.ranges(p.n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = 0; row < p.m; row += 4) {
      const uint32_t* rows = a + row * stride;
      constexpr bool pairs = kHasPairs;
      const bool narrow = p.form == Form::pairs;
      switch (p.m - row) {
        case 1: narrow ? few_rows<pairs, 1>(p, rows, stride, begin, end, row) : few_rows<false, 1>(p, rows, stride, begin, end, row); break;
        case 2: narrow ? few_rows<pairs, 2>(p, rows, stride, begin, end, row) : few_rows<false, 2>(p, rows, stride, begin, end, row); break;
        case 3: narrow ? few_rows<pairs, 3>(p, rows, stride, begin, end, row) : few_rows<false, 3>(p, rows, stride, begin, end, row); break;
        default: narrow ? few_rows<pairs, 4>(p, rows, stride, begin, end, row) : few_rows<false, 4>(p, rows, stride, begin, end, row);
      }
    }
  });
}
#else
// Vectors of a chunk of K.
constexpr int kVectors = 4;
constexpr int64_t kChunkNumbers = kVectors * kLanes;

// How a right factor's numbers leave memory, a chunk at a time, in the order in which that takes least: `place` is the element that lane i has. Left
// factors are brought into this order once.
struct Floats {
  explicit Floats(const Factor& f) : data(f32_at(*f.tensor, 0)) {}
  const float* data;
  static int place(int i) { return i; }
  void load(int64_t element, Lanes (&w)[kVectors]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) w[v] = lanes_at(data + element + v * kLanes);
  }
};

// bf16: the even numbers of two vectors, then the odd ones.
struct HalfFloats {
  explicit HalfFloats(const Factor& f) : data(half_at(*f.tensor, 0)) {}
  const uint16_t* data;
  static int place(int i) { return i / (2 * kLanes) * 2 * kLanes + i % kLanes * 2 + i / kLanes % 2; }
  void load(int64_t element, Lanes (&w)[kVectors]) const {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v += 2) {
      const LaneBits pairs = (LaneBits)lanes_at(data + element + v * kLanes);
      w[v] = (Lanes)(pairs << 16);
      w[v + 1] = (Lanes)(pairs & 0xffff0000);
    }
  }
};

// Whatever it is, rounded where the form asks for it.
struct Numbers {
  Numbers(const Factor& f, Form form) : f(f), form(form) {}
  const Factor& f;
  Form form;
  static int place(int i) { return i; }
  void load(int64_t element, Lanes (&w)[kVectors]) const {
    for (int v = 0; v < kVectors; v++) w[v] = at(element + v * kLanes, kLanes);
  }
  Lanes at(int64_t element, int64_t n) const {
    const Lanes x = f.codes ? f.codes->lanes(element, n) : load_lanes(*f.tensor, element, n);
    return form == Form::rounded ? round_lanes(x) : x;
  }
};

#if defined(__AVX2__)
// Codes of 4 bits rounded to bf16: the sixteen numbers that a block's scale allows are rounded once, their two bytes then picked by code, 32 at a time.
struct Nibbles {
  explicit Nibbles(const Factor& f) : codes(*f.codes) {
    // So that packing them leaves them in order.
    const __m256 low = _mm256_loadu_ps(codes.values), high = _mm256_loadu_ps(codes.values + 8);
    first = _mm256_permute2f128_ps(low, high, 0x20);
    second = _mm256_permute2f128_ps(low, high, 0x31);
  }
  const Codes& codes;
  Lanes first, second;
  mutable int64_t known = -1;  // the block whose bytes these are
  mutable __m256i low, high;

  static bool serves(const Product& p) {
    return p.b.codes && !p.b.codes->wide && p.form == Form::rounded && p.k % kChunkNumbers == 0 && p.b.element(0, 0) % kChunkNumbers == 0;
  }
  static int place(int i) { return i / 16 * 16 + i % 4 * 4 + i / 4 % 2 + i / 8 % 2 * 2; }

  void load(int64_t element, Lanes (&w)[kVectors]) const {
    if (const int64_t block = element >> codes.block; block != known) choose(block, element);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.data + element / 2));
    // Even elements, which are in the high halves of bytes, in the lower sixteen bytes, odd ones in the upper.
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_srli_epi16(bytes, 4)), bytes, 1);
    const __m256i index = _mm256_and_si256(both, _mm256_set1_epi8(15));
    const __m256i l = _mm256_shuffle_epi8(low, index), h = _mm256_shuffle_epi8(high, index);
    const LaneBits some = (LaneBits)_mm256_unpacklo_epi8(l, h), others = (LaneBits)_mm256_unpackhi_epi8(l, h);
    w[0] = (Lanes)(some << 16);
    w[1] = (Lanes)(some & 0xffff0000);
    w[2] = (Lanes)(others << 16);
    w[3] = (Lanes)(others & 0xffff0000);
  }

  void choose(int64_t block, int64_t element) const {
    known = block;
    const float scale = codes.scale(element);
    const auto upper = [&](Lanes values) { return (__m256i)((LaneBits)round_lanes(values * scale) >> 16); };
    const __m256i halves = _mm256_packus_epi32(upper(first), upper(second));
    const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(halves, _mm256_set1_epi16(255)), _mm256_srli_epi16(halves, 8));
    low = _mm256_permute4x64_epi64(bytes, 0x88);
    high = _mm256_permute4x64_epi64(bytes, 0xdd);
  }
};
#endif

// Rows [row, row + Rows) of out, columns [begin, end); `a` has their left factors, rows `stride` numbers apart.
template <int Rows, class Weights>
void few_rows(const Product& p, const Weights& weights, const float* a, int64_t stride, int64_t begin, int64_t end, int64_t row) {
  constexpr int kSums = Rows == 1 ? kVectors : Rows == 2 ? 2 : 1;  // of a row, enough to hide the latency of additions
  const int64_t whole = p.k / kChunkNumbers * kChunkNumbers;
  const Numbers rest(p.b, p.form);
  float results[Rows][kColumns];
  for (int64_t at = begin; at < end; at += kColumns) {
    const int64_t columns = std::min<int64_t>(kColumns, end - at);
    for (int64_t column = 0; column < columns; column++) {
      Lanes sums[Rows][kSums] = {};
      const int64_t element = p.b.element(at + column, 0);
      for (int64_t k = 0; k < whole; k += kChunkNumbers) {
        Lanes w[kVectors];
        weights.load(element + k, w);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++)
#pragma GCC unroll 4
          for (int r = 0; r < Rows; r++) sums[r][v % kSums] += w[v] * lanes_at(a + r * stride + k + v * kLanes);
      }
      for (int64_t k = whole; k < p.k; k += kLanes) {
        const Lanes w = rest.at(element + k, p.k - k);
        for (int r = 0; r < Rows; r++) sums[r][0] += w * lanes_at(a + r * stride + k);
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
void multiply_rows(const Product& p, const Weights& weights, Pool& pool) {
  const int64_t stride = round_up(p.k, kChunkNumbers), whole = p.k / kChunkNumbers * kChunkNumbers;
  auto* a = static_cast<float*>(pool.scratch(0, 0, p.m * stride * sizeof(float)));
  for (int64_t row = 0; row < p.m; row++) {
    float* to = a + row * stride;
    for (int64_t k = 0; k < stride; k += kLanes) put_lanes(to + k, load_units<false>(p.a, row, k, p.k - k, p.form));
    for (int64_t k = 0; k < whole; k += kChunkNumbers) {
      float ordered[kChunkNumbers];
      for (int i = 0; i < kChunkNumbers; i++) ordered[i] = to[k + Weights::place(i)];
      std::copy_n(ordered, kChunkNumbers, to + k);
    }
  }
  const int64_t grain = std::max<int64_t>(kColumns, 65536 / std::max<int64_t>(1, p.k) / kColumns * kColumns);
  pool.ranges(p.n, grain, [&](int64_t begin, int64_t end, int) {
    const Weights own = weights;
    for (int64_t row = 0; row < p.m; row += 4) {
      const float* rows = a + row * stride;
      switch (p.m - row) {
        case 1: few_rows<1>(p, own, rows, stride, begin, end, row); break;
        case 2: few_rows<2>(p, own, rows, stride, begin, end, row); break;
        case 3: few_rows<3>(p, own, rows, stride, begin, end, row); break;
        default: few_rows<4>(p, own, rows, stride, begin, end, row);
      }
    }
  });
}

void multiply_rows(const Product& p, Pool& pool) {
#if defined(__AVX2__)
  if (Nibbles::serves(p)) return multiply_rows(p, Nibbles(p.b), pool);
#endif
  if (!p.b.codes && p.b.tensor->dtype == DType::bf16) return multiply_rows(p, HalfFloats(p.b), pool);
  if (!p.b.codes && p.form == Form::exact) return multiply_rows(p, Floats(p.b), pool);
  multiply_rows(p, Numbers(p.b, p.form), pool);
}
#endif

}  // namespace

void multiply_few_rows(const Product& p, Pool& pool) {
  Product base = p;
  base.branch = nullptr;
  base.form = p.form == Form::tiles ? Form::pairs : p.form == Form::parts ? Form::exact : p.form;
  multiply_rows(base, pool);
  if (!p.branch || p.branch->rank == 0) return;
  const auto& [down, up, h, scale, in, out, mask_scale, rank] = *p.branch;
  multiply_rows({.a = p.a, .b = down, .out = h, .m = p.m, .n = rank, .k = p.k, .form = base.form, .alpha = scale}, pool);
  base.a = Factor::left(*h, false);
  base.b = up;
  base.k = rank;
  base.addend = p.out;
  multiply_rows(base, pool);
}

}  // namespace lowrank::LOWRANK_ISA
