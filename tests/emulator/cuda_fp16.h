// The part of CUDA's header of the same name that generated sources use, on the CPU.
#pragma once
#include <cstring>

struct __half {
  unsigned short bits;
};

inline __half __ushort_as_half(unsigned short bits) { return __half{bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }

inline float __half2float(__half x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, size = x.bits & 0x7fffu;
  float found;
  if (size < 0x400u) {
    found = (float)size * 0x1p-24f;
  } else {
    const unsigned wide = (size << 13) + (size < 0x7c00u ? 112u << 23 : 224u << 23);
    std::memcpy(&found, &wide, 4);
  }
  unsigned whole;
  std::memcpy(&whole, &found, 4);
  whole |= sign;
  std::memcpy(&found, &whole, 4);
  return found;
}

// To nearest, ties to even, from the bits of the double: it holds every float.
inline __half __double2half(double x) {
  unsigned long long whole;
  std::memcpy(&whole, &x, 8);
  const unsigned short sign = (unsigned short)(whole >> 48 & 0x8000);
  const int exponent = (int)(whole >> 52 & 0x7ff) - 1023;
  const unsigned long long fraction = whole & 0xfffffffffffffull;
  if (exponent == 1024 && fraction) return __half{(unsigned short)(sign | 0x7e00)};
  if (exponent > 15) return __half{(unsigned short)(sign | 0x7c00)};
  if (exponent < -26) return __half{sign};
  const int drop = exponent < -14 ? 42 - 14 - exponent : 42;  // bits of the significand that go
  const unsigned long long significand = fraction | 1ull << 52, half = 1ull << (drop - 1);
  unsigned long long kept = significand >> drop;
  const unsigned long long rest = significand & ((1ull << drop) - 1);
  kept += rest > half || (rest == half && (kept & 1));
  const int bias = exponent < -14 ? 0 : (exponent + 14) << 10;
  return __half{(unsigned short)(sign | (kept + bias))};
}

inline __half __float2half_rn(float x) { return __double2half((double)x); }
