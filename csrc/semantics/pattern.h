// Who attends to whom: attention patterns as small postfix programs over (query, key).
//
// Query i stands at position i + query_offset, key j at j; distance = position_k - position_q.
// Three questions are answered here, and nowhere else on the kernels' side: which of 64 consecutive keys one query sees
// (pattern_bits), whether a rectangle of queries and keys is empty, partly visible or full (pattern_cover), and how far
// anybody sees (pattern_reach).
#pragma once

#include <cstdint>

#include "semantics/host_device.h"

namespace seo_kernels {

enum class PatternOp : int32_t { kDense, kCausal, kLocal, kStrided, kDilated, kGlobal, kBlocks, kAnd, kOr };

enum class Cover : int32_t { kEmpty = 0, kPartial = 1, kFull = 2 };

// One postfix step. kLocal: a = left, b = right. kStrided: a = stride. kDilated: a = window, b = dilation.
// kGlobal: a = tokens. kBlocks: a = block size, b = layout heads, c = query blocks, d = key blocks, e = layout offset.
struct PatternStep {
  PatternOp op;
  int64_t a, b, c, d, e;
};

constexpr int kMaxPatternSteps = 64;

struct PatternProgram {
  int32_t count = 0;
  PatternStep steps[kMaxPatternSteps];
  const uint8_t* layout = nullptr;  // all block layouts of the program, concatenated
};

SK_HOST_DEVICE int64_t floor_mod(int64_t value, int64_t modulus) {
  const int64_t remainder = value % modulus;
  return remainder < 0 ? remainder + modulus : remainder;
}

// Bits lo..hi (inclusive, any integers) of a 64-bit word.
SK_HOST_DEVICE uint64_t range_bits(int64_t lo, int64_t hi) {
  if (lo < 0) lo = 0;
  if (hi > 63) hi = 63;
  if (lo > hi) return 0;
  return (~uint64_t{0} >> (63 - hi)) & (~uint64_t{0} << lo);
}

// Bits whose index is congruent to `first` modulo `step`.
SK_HOST_DEVICE uint64_t comb_bits(int64_t first, int64_t step) {
  if (step == 1) return ~uint64_t{0};
  uint64_t bits = 0;
  for (int64_t j = first; j < 64; j += step) bits |= uint64_t{1} << j;
  return bits;
}

SK_HOST_DEVICE bool block_visible(const PatternProgram& program, const PatternStep& step, int64_t head,
                                  int64_t query_block, int64_t key_block) {
  const int64_t layout_head = step.b == 1 ? 0 : head;
  return program.layout[step.e + (layout_head * step.c + query_block) * step.d + key_block] != 0;
}

SK_HOST_DEVICE uint64_t leaf_bits(const PatternProgram& program, const PatternStep& step, int64_t head, int64_t query,
                                  int64_t key_begin, int64_t query_offset) {
  const int64_t center = query + query_offset - key_begin;  // the query's position, counted from key_begin
  switch (step.op) {
    case PatternOp::kCausal:
      return range_bits(0, center);
    case PatternOp::kLocal:
      return range_bits(center - step.a, center + step.b);
    case PatternOp::kStrided:
      return comb_bits(floor_mod(center, step.a), step.a);
    case PatternOp::kDilated: {
      const int64_t reach = step.a * step.b;
      return range_bits(center - reach, center + reach) & comb_bits(floor_mod(center, step.b), step.b);
    }
    case PatternOp::kGlobal: {
      const int64_t position = query + query_offset;
      return position >= 0 && position < step.a ? ~uint64_t{0} : range_bits(0, step.a - 1 - key_begin);
    }
    case PatternOp::kBlocks: {
      uint64_t bits = 0;
      int64_t begin = key_begin;
      while (begin < key_begin + 64) {
        const int64_t key_block = begin / step.a;
        const int64_t end = (key_block + 1) * step.a;
        if (key_block >= step.d) break;
        if (block_visible(program, step, head, query / step.a, key_block)) {
          bits |= range_bits(begin - key_begin, end - 1 - key_begin);
        }
        begin = end;
      }
      return bits;
    }
    default:
      return ~uint64_t{0};
  }
}

// Bit n: query `query` of head `head` sees key `key_begin + n`.
SK_HOST_DEVICE uint64_t pattern_bits(const PatternProgram& program, int64_t head, int64_t query, int64_t key_begin,
                                     int64_t query_offset) {
  if (program.count == 1) return leaf_bits(program, program.steps[0], head, query, key_begin, query_offset);
  uint64_t stack[kMaxPatternSteps];
  int top = 0;
  for (int32_t s = 0; s < program.count; ++s) {
    const PatternStep& step = program.steps[s];
    if (step.op == PatternOp::kAnd) {
      --top;
      stack[top - 1] &= stack[top];
    } else if (step.op == PatternOp::kOr) {
      --top;
      stack[top - 1] |= stack[top];
    } else {
      stack[top++] = leaf_bits(program, step, head, query, key_begin, query_offset);
    }
  }
  return stack[0];
}

// A band of distances [-left, right] against a rectangle whose distances run over [lo, hi].
SK_HOST_DEVICE Cover band_cover(int64_t lo, int64_t hi, int64_t left, int64_t right) {
  if (hi < -left || lo > right) return Cover::kEmpty;
  return lo >= -left && hi <= right ? Cover::kFull : Cover::kPartial;
}

// Multiples of `step` within the distances [lo, hi].
SK_HOST_DEVICE Cover comb_cover(int64_t lo, int64_t hi, int64_t step) {
  if (step == 1) return Cover::kFull;
  if (hi - lo + 1 >= step) return Cover::kPartial;
  return lo + floor_mod(-lo, step) <= hi ? Cover::kPartial : Cover::kEmpty;
}

SK_HOST_DEVICE Cover cover_and(Cover x, Cover y) { return x < y ? x : y; }
SK_HOST_DEVICE Cover cover_or(Cover x, Cover y) { return x > y ? x : y; }

SK_HOST_DEVICE Cover leaf_cover(const PatternProgram& program, const PatternStep& step, int64_t head,
                                int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end,
                                int64_t query_offset) {
  const int64_t lo = key_begin - (query_end - 1 + query_offset);
  const int64_t hi = key_end - 1 - (query_begin + query_offset);
  switch (step.op) {
    case PatternOp::kCausal:
      return hi <= 0 ? Cover::kFull : lo > 0 ? Cover::kEmpty : Cover::kPartial;
    case PatternOp::kLocal:
      return band_cover(lo, hi, step.a, step.b);
    case PatternOp::kStrided:
      return comb_cover(lo, hi, step.a);
    case PatternOp::kDilated: {
      const int64_t reach = step.a * step.b;
      const Cover band = band_cover(lo, hi, reach, reach);
      if (band == Cover::kEmpty) return band;
      const int64_t from = lo > -reach ? lo : -reach;
      const int64_t to = hi < reach ? hi : reach;
      return cover_and(band, comb_cover(from, to, step.b));
    }
    case PatternOp::kGlobal: {
      const int64_t first = query_begin + query_offset, last = query_end - 1 + query_offset;
      if (key_end <= step.a || (first >= 0 && last < step.a)) return Cover::kFull;
      const bool some_query = last >= 0 && first < step.a;
      return some_query || key_begin < step.a ? Cover::kPartial : Cover::kEmpty;
    }
    case PatternOp::kBlocks: {
      bool any = false, all = true;
      for (int64_t q = query_begin / step.a; q <= (query_end - 1) / step.a; ++q) {
        for (int64_t k = key_begin / step.a; k <= (key_end - 1) / step.a; ++k) {
          const bool visible = block_visible(program, step, head, q, k);
          any |= visible;
          all &= visible;
        }
      }
      return all ? Cover::kFull : any ? Cover::kPartial : Cover::kEmpty;
    }
    default:
      return Cover::kFull;
  }
}

// Conservative: kEmpty and kFull are certain, kPartial may still turn out to be either.
SK_HOST_DEVICE Cover pattern_cover(const PatternProgram& program, int64_t head, int64_t query_begin, int64_t query_end,
                                   int64_t key_begin, int64_t key_end, int64_t query_offset) {
  Cover stack[kMaxPatternSteps];
  int top = 0;
  for (int32_t s = 0; s < program.count; ++s) {
    const PatternStep& step = program.steps[s];
    if (step.op == PatternOp::kAnd) {
      --top;
      stack[top - 1] = cover_and(stack[top - 1], stack[top]);
    } else if (step.op == PatternOp::kOr) {
      --top;
      stack[top - 1] = cover_or(stack[top - 1], stack[top]);
    } else {
      stack[top++] = leaf_cover(program, step, head, query_begin, query_end, key_begin, key_end, query_offset);
    }
  }
  return stack[0];
}

constexpr int64_t kUnbounded = int64_t{1} << 62;

// No visible |distance| is above this.
SK_HOST_DEVICE int64_t pattern_reach(const PatternProgram& program) {
  int64_t stack[kMaxPatternSteps];
  int top = 0;
  for (int32_t s = 0; s < program.count; ++s) {
    const PatternStep& step = program.steps[s];
    if (step.op == PatternOp::kAnd) {
      --top;
      if (stack[top] < stack[top - 1]) stack[top - 1] = stack[top];
    } else if (step.op == PatternOp::kOr) {
      --top;
      if (stack[top] > stack[top - 1]) stack[top - 1] = stack[top];
    } else if (step.op == PatternOp::kLocal) {
      stack[top++] = step.a > step.b ? step.a : step.b;
    } else if (step.op == PatternOp::kDilated) {
      stack[top++] = step.a > kUnbounded / step.b ? kUnbounded : step.a * step.b;
    } else {
      stack[top++] = kUnbounded;
    }
  }
  return stack[0];
}

}  // namespace seo_kernels
