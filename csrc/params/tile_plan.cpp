#include "params/tile_plan.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <numeric>
#include <sstream>
#include <stdexcept>

namespace seo_kernels {
namespace {

constexpr size_t kCachedPlans = 64;

[[noreturn]] void malformed(const std::string& text, const std::string& why) {
  throw std::invalid_argument("pattern program '" + text + "' is malformed: " + why);
}

int64_t read_integer(std::istringstream& words, const std::string& text, int64_t minimum) {
  int64_t value;
  if (!(words >> value) || value < minimum) {
    malformed(text, "expected an integer of at least " + std::to_string(minimum));
  }
  return value;
}

void check_layout(const PatternStep& step, const PatternKey& key, int64_t layout_size) {
  const int64_t query_blocks = (key.query_length + step.a - 1) / step.a;
  const int64_t key_blocks = (key.key_length + step.a - 1) / step.a;
  if (step.c != query_blocks || step.d != key_blocks) {
    throw std::invalid_argument(
        "pattern: layout has (" + std::to_string(step.c) + ", " + std::to_string(step.d) + ") blocks of " +
        std::to_string(step.a) + ", expected (" + std::to_string(query_blocks) + ", " + std::to_string(key_blocks) +
        ") for query length " + std::to_string(key.query_length) + " and key length " + std::to_string(key.key_length));
  }
  if (step.b != 1 && step.b != key.heads) {
    throw std::invalid_argument("pattern: layout has " + std::to_string(step.b) + " heads, expected 1 or " +
                                std::to_string(key.heads));
  }
  if (step.e + step.b * step.c * step.d > layout_size) malformed(key.text, "layout tensor too short");
}

PatternStep read_step(const std::string& name, std::istringstream& words, const PatternKey& key, int64_t layout_size) {
  const std::string& text = key.text;
  PatternStep step{};
  if (name == "dense") {
    step.op = PatternOp::kDense;
  } else if (name == "causal") {
    step.op = PatternOp::kCausal;
  } else if (name == "local") {
    step.op = PatternOp::kLocal;
    step.a = read_integer(words, text, 0);
    step.b = read_integer(words, text, 0);
  } else if (name == "strided") {
    step.op = PatternOp::kStrided;
    step.a = read_integer(words, text, 1);
  } else if (name == "dilated") {
    step.op = PatternOp::kDilated;
    step.a = read_integer(words, text, 0);
    step.b = read_integer(words, text, 1);
  } else if (name == "global") {
    step.op = PatternOp::kGlobal;
    step.a = read_integer(words, text, 0);
  } else if (name == "blocks") {
    step.op = PatternOp::kBlocks;
    step.a = read_integer(words, text, 1);
    step.b = read_integer(words, text, 1);
    step.c = read_integer(words, text, 0);
    step.d = read_integer(words, text, 0);
    step.e = read_integer(words, text, 0);
    std::string hash;
    if (!(words >> hash)) malformed(text, "expected the hash of a layout");
    check_layout(step, key, layout_size);
  } else if (name == "and") {
    step.op = PatternOp::kAnd;
  } else if (name == "or") {
    step.op = PatternOp::kOr;
  } else {
    malformed(text, "unknown word '" + name + "'");
  }
  return step;
}

PatternProgram parse(const PatternKey& key, int64_t layout_size) {
  PatternProgram program;
  std::istringstream words(key.text);
  std::string name;
  int depth = 0;
  while (words >> name) {
    if (program.count == kMaxPatternSteps) {
      malformed(key.text, "more than " + std::to_string(kMaxPatternSteps) + " steps");
    }
    const PatternStep step = read_step(name, words, key, layout_size);
    depth += step.op == PatternOp::kAnd || step.op == PatternOp::kOr ? -1 : 1;
    if (depth < 1) malformed(key.text, "an operator lacks operands");
    program.steps[program.count++] = step;
  }
  if (depth != 1) malformed(key.text, "it does not come to one value");
  return program;
}

class Planner {
 public:
  Planner(const PatternProgram& program, const PatternKey& key, TilePlan& plan)
      : program_(program), key_(key), plan_(plan) {}

  void run() {
    const int64_t length = key_.query_length;
    plan_.tile_rows = rows_per_tile();
    plan_.tiles = (length + plan_.tile_rows - 1) / plan_.tile_rows;
    plan_.heads = 1;
    for (int32_t s = 0; s < program_.count; ++s) {
      if (program_.steps[s].op == PatternOp::kBlocks && program_.steps[s].b != 1) plan_.heads = key_.heads;
    }
    plan_.offsets.assign(1, 0);
    const int64_t panels = (key_.key_length + kPanel - 1) / kPanel;
    for (int64_t head = 0; head < plan_.heads; ++head) {
      for (int64_t tile = 0; tile < plan_.tiles; ++tile) {
        const int64_t begin = tile * plan_.tile_rows;
        const int64_t end = std::min(begin + plan_.tile_rows, length);
        if (panels > 0) visit(head, begin, end, 0, panels);
        close_tile();
      }
    }
  }

 private:
  // Block layouts want tiles that end where blocks do; otherwise tiles are balanced: 128 rows are 72 + 56, not 96 + 32.
  int64_t rows_per_tile() const {
    const int64_t count = std::max<int64_t>(1, (key_.query_length + key_.most_rows - 1) / key_.most_rows);
    const int64_t even = (key_.query_length + count - 1) / count;
    int64_t rows = std::max<int64_t>(key_.row_step, (even + key_.row_step - 1) / key_.row_step * key_.row_step);
    for (int32_t s = 0; s < program_.count; ++s) {
      if (program_.steps[s].op != PatternOp::kBlocks) continue;
      const int64_t block = program_.steps[s].a;
      const int64_t parts = (block + key_.most_rows - 1) / key_.most_rows;
      const int64_t aligned = block <= key_.most_rows ? key_.most_rows / block * block : block / parts;
      if (aligned % kRowsPerCounter == 0 && (block <= key_.most_rows || block % parts == 0)) rows = aligned;
    }
    return rows;
  }

  // Bisects the panels until a stretch is all empty, all full, or one panel.
  void visit(int64_t head, int64_t query_begin, int64_t query_end, int64_t begin, int64_t end) {
    const int64_t key_end = std::min(end * kPanel, key_.key_length);
    Cover cover = pattern_cover(program_, head, query_begin, query_end, begin * kPanel, key_end, key_.query_offset);
    if (cover == Cover::kPartial && end - begin > 1) {
      const int64_t middle = begin + (end - begin) / 2;
      visit(head, query_begin, query_end, begin, middle);
      visit(head, query_begin, query_end, middle, end);
      return;
    }
    if (cover == Cover::kPartial) cover = exact_cover(head, query_begin, query_end, begin, key_end);
    if (cover != Cover::kEmpty) append(begin, end, cover == Cover::kPartial);
  }

  Cover exact_cover(int64_t head, int64_t query_begin, int64_t query_end, int64_t panel, int64_t key_end) const {
    const uint64_t present = range_bits(0, key_end - panel * kPanel - 1);
    uint64_t any = 0, all = present;
    for (int64_t i = query_begin; i < query_end; ++i) {
      const uint64_t bits = present & pattern_bits(program_, head, i, panel * kPanel, key_.query_offset);
      any |= bits;
      all &= bits;
    }
    return any == 0 ? Cover::kEmpty : all == present ? Cover::kFull : Cover::kPartial;
  }

  void append(int64_t begin, int64_t end, bool partial) {
    if (plan_.offsets.back() < static_cast<int64_t>(plan_.runs.size())) {
      PanelRun& last = plan_.runs.back();
      if (last.end == begin && last.partial == partial) {
        last.end = static_cast<int32_t>(end);
        return;
      }
    }
    plan_.runs.push_back(PanelRun{static_cast<int32_t>(begin), static_cast<int32_t>(end), partial});
  }

  void close_tile() {
    int64_t panels = 0;
    for (size_t r = plan_.offsets.back(); r < plan_.runs.size(); ++r) panels += plan_.runs[r].end - plan_.runs[r].begin;
    plan_.panels.push_back(panels);
    plan_.offsets.push_back(static_cast<int64_t>(plan_.runs.size()));
  }

  const PatternProgram& program_;
  const PatternKey& key_;
  TilePlan& plan_;
};

struct CacheEntry {
  PatternKey key;
  std::shared_ptr<const PlannedPattern> value;
};

}  // namespace

std::shared_ptr<const PlannedPattern> planned_pattern(const PatternKey& key, const LayoutReader& layout) {
  static std::mutex mutex;
  static std::list<CacheEntry> cache;  // most recent first
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = std::find_if(cache.begin(), cache.end(), [&](const CacheEntry& e) { return e.key == key; });
  if (found != cache.end()) {
    cache.splice(cache.begin(), cache, found);
    return cache.front().value;
  }
  auto planned = std::make_shared<PlannedPattern>();
  planned->layout = layout();
  planned->program = parse(key, static_cast<int64_t>(planned->layout.size()));
  planned->program.layout = planned->layout.data();
  Planner(planned->program, key, planned->plan).run();
  cache.push_front(CacheEntry{key, planned});
  if (cache.size() > kCachedPlans) cache.pop_back();
  return planned;
}

PanelPlan by_panels(const TilePlan& plan, int64_t key_length) {
  PanelPlan turned;
  turned.panels = (key_length + kPanel - 1) / kPanel;
  turned.offsets.assign(1, 0);
  std::vector<std::vector<PanelRun>> visitors(turned.panels);
  for (int64_t head = 0; head < plan.heads; ++head) {
    for (auto& runs : visitors) runs.clear();
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      const int64_t index = head * plan.tiles + tile;
      for (int64_t n = plan.offsets[index]; n < plan.offsets[index + 1]; ++n) {
        const PanelRun& run = plan.runs[n];
        for (int64_t panel = run.begin; panel < run.end; ++panel) {
          std::vector<PanelRun>& runs = visitors[panel];
          if (runs.empty() || runs.back().end != tile || runs.back().partial != run.partial) {
            runs.push_back(PanelRun{static_cast<int32_t>(tile), static_cast<int32_t>(tile), run.partial});
          }
          ++runs.back().end;
        }
      }
    }
    for (const auto& runs : visitors) {
      int64_t tiles = 0;
      for (const PanelRun& run : runs) tiles += run.end - run.begin;
      turned.tiles.push_back(tiles);
      turned.runs.insert(turned.runs.end(), runs.begin(), runs.end());
      turned.offsets.push_back(static_cast<int64_t>(turned.runs.size()));
    }
  }
  return turned;
}

std::vector<int64_t> work_of_panels(const PanelPlan& turned, int64_t heads, int64_t key_heads) {
  if (heads == 1) return turned.tiles;
  const int64_t group = heads / key_heads;
  std::vector<int64_t> work(key_heads * turned.panels);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t panel = 0; panel < turned.panels; ++panel) {
      work[head / group * turned.panels + panel] += turned.tiles[head * turned.panels + panel];
    }
  }
  return work;
}

std::vector<int32_t> longest_first(const std::vector<int64_t>& work) {
  std::vector<int32_t> order(work.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return work[a] > work[b]; });
  return order;
}

}  // namespace seo_kernels
