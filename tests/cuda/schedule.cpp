// In which order blocks take tiles and panels, and which: schedule order or deal [MISTAKE] says "right", or what is
// wrong.
#include "cuda/attention/schedule.h"

#include <set>
#include <string>
#include <vector>

#include "params/tile_plan.h"
#include "program.h"

namespace seo_kernels::cuda {
namespace {

// work: of a member's units. Every `sharing` members read the same `bytes`.
void check(Schedule schedule, const std::vector<int64_t>& work, int64_t members, int64_t sharing, int64_t bytes) {
  std::vector<int32_t> order(schedule.order, schedule.order + schedule.units);
  schedule.order = order.data();
  if (mistake == "shortest") std::reverse(order.begin(), order.end());
  if (mistake == "twice" && order.size() > 1) order.back() = order[order.size() - 2];
  if (mistake == "section") schedule.section += 1;
  expect(schedule.units == work.size() && schedule.members == members, "the number of blocks");
  const int64_t read = (schedule.section + sharing - 1) / sharing * bytes;
  expect(schedule.section <= sharing || read <= device_limits().cache_bytes / 2, "a section does not fit the cache");
  std::vector<int> visits(schedule.blocks());
  std::set<int64_t> begun;  // sections
  int64_t last_section = -1, last_work = 0;
  for (int64_t block = 0; block < schedule.blocks(); ++block) {
    const int64_t at = schedule.at(block), member = at / schedule.units;
    ++visits.at(at);
    const int64_t section = member / schedule.section;
    if (section != last_section) {
      expect(begun.insert(section).second, "a section's blocks are not side by side");
      last_work = INT64_MAX;
    }
    const int64_t now = work.at(at % schedule.units);
    expect(now <= last_work, "a longer one begins later");
    last_work = now;
    last_section = section;
  }
  for (size_t n = 0; n < visits.size(); ++n) {
    expect(visits[n] == 1, std::to_string(n) + " is visited " + std::to_string(visits[n]) + " times");
  }
}

void check_plan(const char* text, const std::vector<uint8_t>& layout, int64_t length, int64_t tile_rows) {
  constexpr int64_t heads = 6;
  const PatternKey key{text, heads, length, length, 0, tile_rows, tile_rows};
  const auto planned = planned_pattern(key, [&] { return layout; });
  const TilePlan& plan = planned->plan;
  const PanelPlan turned = by_panels(plan, length);
  for (const int64_t key_heads : {1, 2, 6}) {
    for (const int64_t batch : {1, 2, 5}) {
      for (const int64_t dim : {8, 64, 200}) {  // of 64 KiB of cache, some members at once or one
        const std::vector<int64_t> panel_work = work_of_panels(turned, plan.heads, key_heads);
        const auto order = longest_first(plan.panels), panel_order = longest_first(panel_work);
        AttentionParams p{};
        p.batch = batch, p.query_heads = heads, p.key_heads = key_heads;
        p.query_length = p.key_length = length, p.dim = p.value_dim = dim;
        p.plan.tile_rows = plan.tile_rows, p.plan.tiles = plan.tiles, p.plan.panels = turned.panels;
        p.plan.per_head = plan.heads != 1;
        p.plan.order = order.data(), p.plan.panel_order = panel_order.data();
        const bool apart = p.plan.per_head;
        const int64_t rows = length * 2 * dim * 2;  // of one head, in two tensors
        if (apart) {
          check(schedule_of_queries(p), plan.panels, batch, 1, key_heads * rows);
          check(schedule_of_keys(p), panel_work, batch, 1, heads * rows);
        } else {
          check(schedule_of_queries(p), plan.panels, batch * heads, heads / key_heads, rows);
          check(schedule_of_keys(p), panel_work, batch * key_heads, 1, heads / key_heads * rows);
        }
      }
    }
  }
}

struct Taker {
  static unsigned take(unsigned* counter) { return (*counter)++; }
};

// Blocks that take turns of `turn` tiles, the first as many as it likes where that is 0.
void check_deal(const Deal& deal, int turn) {
  std::vector<int> visits(deal.count);
  std::vector<unsigned> at(deal.blocks);
  for (unsigned block = 0; block < deal.blocks; ++block) at[block] = block;
  Taker taker;
  for (bool any = true; any;) {
    any = false;
    for (unsigned& index : at) {
      for (int n = 0; deal.has(index) && (turn == 0 || n < turn); ++n) {
        ++visits.at(index);
        index = deal.next(taker);
        if (mistake == "next" && deal.has(index)) ++index;
        any = true;
      }
    }
  }
  for (size_t n = 0; n < visits.size(); ++n) {
    expect(visits[n] == 1, std::to_string(n) + " is taken " + std::to_string(visits[n]) + " times");
  }
}

void check_deals() {
  for (const unsigned count : {1, 2, 3, 4, 7, 64, 101}) {
    std::vector<int32_t> order(count);
    const Schedule schedule{order.data(), count, 1, 1};
    unsigned taken = 5;  // of another launch
    const Deal deal = deal_of(schedule, &taken, nullptr, "schedule");
    const auto room = static_cast<unsigned>(multiprocessors());
    expect(deal.count == count && deal.blocks == std::min(count, room), "the number of blocks that stay");
    expect(!deal.taken || taken == 0, "a launch that begins where another ended");
    if (mistake == "counter") taken = 1;
    check_deal(deal, 1);
    const Deal apart = deal_of(schedule, nullptr, nullptr, "schedule");
    expect(apart.blocks == count, "a block for each");
    check_deal(apart, 1);
    for (const unsigned blocks : {1u, 2u, 3u, 5u, count}) {
      for (const int turn : {0, 1, 2, 3}) {
        taken = 0;
        check_deal({count, std::min(blocks, count), &taken}, turn);
      }
    }
  }
}

void check_all() {
  std::vector<uint8_t> layout(6 * 8 * 8);  // of six heads
  for (size_t n = 0; n < layout.size(); ++n) layout[n] = n * 7 % 11 < n / 64;
  for (const int64_t tile_rows : {64, 128}) {
    for (const char* text : {"causal", "local 70 0", "global 3 local 9 9 or"}) {
      for (const int64_t length : {1, 300, 512}) check_plan(text, {}, length, tile_rows);
    }
    check_plan("blocks 64 6 8 8 0 hash", layout, 512, tile_rows);
    check_plan("blocks 64 1 8 8 0 hash causal and", layout, 512, tile_rows);
  }
}

}  // namespace
}  // namespace seo_kernels::cuda

int main(int count, char** arguments) {
  using namespace seo_kernels::cuda;
  return run_program(count, arguments, {{"order", check_all}, {"deal", check_deals}});
}
