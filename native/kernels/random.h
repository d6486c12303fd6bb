// Philox4x32-10 (Salmon et al., SC 2011), the same numbers as src/util/philox.ts.
#pragma once
#include <cstdint>

namespace lowrank::LOWRANK_ISA {

// The words of the counters (index … index + Count, step, 0, 0) under the key (seed, stream): words[4i + lane].
template <int Count>
inline void philox(uint32_t* words, uint32_t seed, uint32_t stream, uint32_t index, uint32_t step) {
#pragma omp simd
  for (uint32_t i = 0; i < Count; i++) {
    uint32_t c0 = index + i, c1 = step, c2 = 0, c3 = 0, k0 = seed, k1 = stream;
    for (int round = 0; round < 10; round++) {
      const uint64_t product0 = static_cast<uint64_t>(c0) * 0xd2511f53u, product1 = static_cast<uint64_t>(c2) * 0xcd9e8d57u;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(product1);
      c3 = static_cast<uint32_t>(product0);
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
    words[4 * i] = c0;
    words[4 * i + 1] = c1;
    words[4 * i + 2] = c2;
    words[4 * i + 3] = c3;
  }
}

}  // namespace lowrank::LOWRANK_ISA
