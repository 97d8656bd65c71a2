#include "cpu/isa/entry.h"
#include "cpu/isa/linear/tile_writer.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
Matmul<E> product_of(const MatmulParams& p, const Panels<E>& panels) {
  if constexpr (!kOnTiles<E>) {
    if (p.turned) return Matmul<E>(p.a, panels, TurnedWriter<E>::kRows);
  }
  return Matmul<E>(p.a, panels);
}

template <class E, class Write>
void run_matmul(const MatmulParams& p, const MatmulShare& share, const Write& write) {
  const Panels<E> panels = panels_of<E>(p.b);
  const auto on_tile = [&](auto... tile) { write(tile...); };
  if (share.packed) {
    product_of<E>(p, panels).run(share.rows, share.panels, on_tile);
    return;
  }
  const Panels<E> one = panels.one_at_a_time(share.slot);
  Matmul<E> product = product_of<E>(p, one);
  for (int64_t panel = share.panels.begin; panel < share.panels.end; ++panel) {
    one.pack(p.b.matrix, {panel, panel + 1});
    product.run(share.rows, {panel, panel + 1}, on_tile);
  }
}

}  // namespace

int64_t linear_panel_bytes(DType dtype, int64_t inner, int64_t columns) {
  int64_t bytes = 0;
  with_engine(dtype, [&](auto engine) {
    using E = decltype(engine);
    bytes = Panels<E>::size(inner, columns) * static_cast<int64_t>(sizeof(typename E::Operand));
  });
  return bytes;
}

int64_t linear_panel_count(DType dtype, int64_t columns) {
  int64_t count = 0;
  with_engine(dtype, [&](auto engine) { count = Panels<decltype(engine)>::count(columns); });
  return count;
}

void linear_pack(DType dtype, const PackedMatrix& matrix, Range panels) {
  with_engine(dtype, [&](auto engine) { panels_of<decltype(engine)>(matrix).pack(matrix.matrix, panels); });
}

void linear_matmul(const MatmulParams& p, const MatmulShare& share) {
  with_engine(p.dtype, [&](auto engine) {
    using E = decltype(engine);
    p.turned ? run_matmul<E>(p, share, TurnedWriter<E>(p)) : run_matmul<E>(p, share, TileWriter<E>(p));
  });
}

}  // namespace seo_kernels::cpu
