// What warps do together, run by the host executor, without a mistake and with one of each kind: warps WHAT [MISTAKE]
// says "right", or what is wrong.
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cuda/sm80/band.h"
#include "params/tile_plan.h"
#include "program.h"

namespace seo_kernels::cuda {
namespace {

constexpr int kWidth = 64;

// out (64, 64) = left (64, 64) . right (64, 64)^T, then = that, in 16 bits, . right
template <class S>
struct Products {
  static constexpr int kThreads = kMmaThreads;
  struct Shared {
    SharedArray<S, kTile * kWidth> left, right, out;
  };
  const S *left, *right;
  float *once, *twice;
  TensorView view;  // of `out`
  S* out;

  template <class Block>
  void operator()(Block& block) const {
    Shared& shared = block.shared();
    const HeadRows<S> lefts(left, kWidth, 1, kWidth), rights(right, kWidth, 1, kWidth);
    stage_run<kTile, kWidth>(block, shared.left, RowRun<S>{lefts, 0, kTile});
    commit_copies(block);
    stage_run<kTile, kWidth>(block, shared.right, RowRun<S>{rights, 0, kTile});
    commit_copies(block);
    if (has("late-wait")) {
      wait_for_copies<1>(block);
    } else if (!has("no-wait")) {
      wait_for_copies<0>(block);
    }
    if (!has("no-barrier")) block.sync();
    PerThread<Tile<1, 8>> products, sums;
    block.for_threads([&](int thread) { products[thread] = sums[thread] = {}; });
    add_row_products<S, kWidth>(block, products, shared.left, shared.right, 4, [](int) { return 0; });
    add_tile_weighted<S, kWidth>(block, sums, products, shared.right, 4);
    block.for_threads([&](int thread) {
      const Pairs<false> at(thread, warp_row<1>(thread));
      for (int n = 0; n < 8; ++n) {
        for (int e = 0; e < 4; ++e) {
          const int column = at.key(n, e / 2, has("column") ? 1 - e % 2 : e % 2);
          once[at.query(n, e / 2, 0) * kWidth + column] = products[thread].at[0][n].at[e];
          twice[at.query(n, e / 2, 0) * kWidth + column] = sums[thread].at[0][n].at[e];
        }
      }
    });
    store_tile<S, kWidth>(block, shared.out, products, [](int, int, int) { return 2.0f; }, out, view, 0, kTile, kWidth);
  }
};

template <class S>
void products() {
  std::vector<S> left(kTile * kWidth), right(kTile * kWidth), out(kTile * kWidth);
  for (int n = 0; n < kTile * kWidth; ++n) {  // small integers: all sums are exact
    left[n] = narrow<S>(static_cast<float>(n * 7 % 11 - 5) / 4);
    right[n] = narrow<S>(static_cast<float>(n * 5 % 13 - 6) / 8);
  }
  std::vector<float> once(kTile * kWidth), twice(kTile * kWidth);
  const TensorView view{out.data(), DType::kBFloat16, {0, 0, kWidth, 1}};
  launch(Products<S>{left.data(), right.data(), once.data(), twice.data(), view, out.data()}, 1, nullptr, "products");
  for (int i = 0; i < kTile; ++i) {
    float rows[kTile];
    for (int j = 0; j < kTile; ++j) {
      float sum = 0;
      for (int k = 0; k < kWidth; ++k) sum += widen(left[i * kWidth + k]) * widen(right[j * kWidth + k]);
      const std::string at = " at " + std::to_string(i) + ", " + std::to_string(j);
      expect(once[i * kWidth + j] == sum, "a product" + at);
      expect(widen(out[i * kWidth + j]) == widen(narrow<S>(2 * sum)), "what is stored" + at);
      rows[j] = widen(narrow<S>(sum));
    }
    for (int d = 0; d < kWidth; ++d) {
      float sum = 0, size = 0;
      for (int j = 0; j < kTile; ++j) {
        sum += rows[j] * widen(right[j * kWidth + d]);
        size += std::fabs(rows[j] * widen(right[j * kWidth + d]));
      }
      expect(std::fabs(twice[i * kWidth + d] - sum) <= 1e-5f * size, "a product of products");
    }
  }
}

// Each thread's number goes to a thread of the same warp.
struct Neighbours {
  static constexpr int kThreads = 64;
  struct Shared {
    SharedArray<float, kThreads> values;
  };
  float* out;

  template <class Block>
  void operator()(Block& block) const {
    const int away = has("another-warp") ? 32 : 1;
    for (int round = 0; round < 2; ++round) {
      block.for_threads([&](int thread) { block.shared().values[thread] = static_cast<float>(thread); });
      if (!has("no-warp-barrier")) block.sync_warp();
      block.for_threads([&](int thread) { out[thread] = block.shared().values[thread ^ away]; });
      if (!has("no-second-barrier")) block.sync_warp();
    }
  }
};

void neighbours() {
  std::vector<float> out(64);
  launch(Neighbours{out.data()}, 1, nullptr, "neighbours");
  for (int n = 0; n < 64; ++n) expect(out[n] == static_cast<float>(n ^ 1), "a neighbour's number");
}

template <int Width>
void swizzle() {
  std::set<int> places;
  for (int row = 0; row < kTile; ++row) {
    for (int column = 0; column < Width; ++column) {
      const int at = swizzled<Width>(row, column);
      expect(at >= 0 && at < kTile * Width, "a place out of range");
      expect(places.insert(at).second, "two entries in one place");
      expect(at % 8 == column % 8, "a piece of 16 bytes is torn");
    }
  }
  for (int row = 0; row < kTile; row += 8) {
    for (int column = 0; column < Width; column += 8) {
      std::set<int> banks;
      for (int r = 0; r < 8; ++r) banks.insert(swizzled<Width>(row + r, column) / 8 % 8);
      expect(banks.size() == 8, "two rows of a matrix in the same banks");
    }
  }
}

// A relative table's rows before a tile: where a query's product with a key's row lies.
void band() {
  std::set<int> banks;
  for (int r = 0; r < 8; ++r) banks.insert(r * kWeightLd / 8 % 8);
  expect(kWeightLd % 8 == 0 && banks.size() == 8, "weights of two rows in the same banks");
  for (int query = 0; query < kTile; ++query) {
    std::set<int> columns;
    for (int key = 0; key < kTile; ++key) {
      const int column = band_column(query, key), row = band_row(query / 16 * kWarp) + column;
      expect(column >= 0 && column < kBandColumns && columns.insert(column).second, "a column of the band");
      expect(row == key - query + kTile - 1 && row < kBandRows, "a row of the band");
    }
  }
  // In its gradient, a query's product with a key's row is one warp's, in the row's half.
  for (int query = 0; query < kTile; ++query) {
    for (int key = 0; key < kTile; ++key) {
      int found = 0;
      for (int half = 0; half < 2; ++half) {
        for (int warp = 0; warp < kTile / 16; ++warp) {
          const int first = gradient_column(warp * kWarp, half, query / 16), row = band_column(query, key) - first;
          if (first < 0 || first > kTile || row < 0 || row >= 16) continue;
          ++found;
          expect(half * kTile + 16 * warp + row == key - query + kTile - 1, "a row of the band's gradient");
        }
      }
      expect(found == 1, "a row of the band's gradient in " + std::to_string(found) + " places");
    }
  }
  for (const int64_t reach : {0, 3, 64, 200}) {
    const RelativeTable table{nullptr, reach, false, true};
    for (int64_t distance = -400; distance <= 400; ++distance) {
      std::set<int64_t> rows;
      for (int e = 0; e < 2 * kTile - 1; ++e) rows.insert(relative_index(distance + e - (kTile - 1), reach));
      if (below_table(table, distance)) expect(rows == std::set<int64_t>{0}, "not all below the table");
      if (above_table(table, distance)) expect(rows == std::set<int64_t>{2 * reach}, "not all above the table");
    }
  }
}

// Every pair of a query and a key that see each other lies in exactly one tile that is visited, from either side.
void ranges(const char* text, int64_t queries, int64_t keys, int64_t tile_rows) {
  const PatternKey key{text, 2, queries, keys, keys - queries, tile_rows, tile_rows};
  const auto planned = planned_pattern(key, [] { return std::vector<uint8_t>{}; });
  const TilePlan& plan = planned->plan;
  const PanelPlan turned = by_panels(plan, keys);
  AttentionParams p{};
  p.batch = 1, p.query_heads = 2, p.key_heads = 1, p.query_length = queries, p.key_length = keys;
  p.query_offset = key.query_offset;
  p.plan = {plan.tile_rows,        plan.tiles,          turned.panels,
            plan.heads != 1,       plan.offsets.data(), plan.runs.data(),
            turned.offsets.data(), turned.runs.data(),  &planned->program};
  std::map<std::pair<int64_t, int64_t>, int> visits;
  TilePair pair(p);
  for (int64_t tile = 0; tile < plan.tiles; ++tile) {
    pair.set_queries(0, 1, tile);
    PanelCursor cursor(p.plan, 1, tile);
    while (cursor.next(pair)) ++visits[{tile, cursor.panel()}];
  }
  if (has("range")) visits.erase(std::prev(visits.end()));
  for (int64_t panel = 0; panel < turned.panels; ++panel) {
    std::map<int64_t, int> heads;
    pair.set_queries(0, 0, 0);
    TileCursor cursor(p.plan, pair, panel, 0, 2);
    while (cursor.next(pair)) {
      expect(visits.count({pair.tile(), panel}) == 1, "a tile that only keys visit");
      ++heads[pair.tile() * 2 + pair.head()];
    }
    for (const auto& [tile, count] : heads) expect(count == 1, "keys visit a tile twice");
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      expect(heads.count(2 * tile) == visits.count({tile, panel}), "a tile that only queries visit");
    }
  }
  for (const auto& [place, count] : visits) expect(count == 1, "a tile is visited twice");
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t panel = 0; panel < turned.panels; ++panel) {
      const int64_t there = std::min<int64_t>(kTile, keys - panel * kTile);
      const uint64_t bits =
          pattern_bits(planned->program, 1, i, panel * kTile, key.query_offset) & range_bits(0, there - 1);
      if (bits) expect(visits.count({i / plan.tile_rows, panel}) == 1, "a visible key is not visited");
    }
  }
}

void all_ranges() {
  for (const int64_t tile_rows : {kTile, 2 * kTile}) {
    for (const auto& [queries, keys] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {63, 200}, {257, 257}, {300, 100}}) {
      for (const char* text : {"dense", "causal", "local 70 0", "strided 5 causal and", "global 3 local 9 9 or"}) {
        ranges(text, queries, keys, tile_rows);
      }
    }
  }
}

}  // namespace
}  // namespace seo_kernels::cuda

int main(int count, char** arguments) {
  using namespace seo_kernels::cuda;
  return run_program(count, arguments,
                     {{"bfloat16", products<BFloat16>},
                      {"float16", products<Float16>},
                      {"neighbours", neighbours},
                      {"swizzle 64", swizzle<64>},
                      {"swizzle 128", swizzle<128>},
                      {"swizzle 256", swizzle<256>},
                      {"band", band},
                      {"ranges", all_ranges}});
}
