#include "kernels/matrix_product.h"

#include <algorithm>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <unordered_map>

#include "base/threads.h"

namespace fathom {
namespace {

// Rows of one call. oneDNN generates code for each number of rows (0.3 ms); with whole multiples of 64 and a
// rest of fewer, there are at most 71 numbers, whatever is asked for.
constexpr std::int64_t most_rows = 512;
constexpr std::int64_t row_granule = 64;

using Format = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

bool has_isa(dnnl::cpu_isa least) {
  // The values are sets of bits: a better one contains the others'.
  const auto have = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (have & static_cast<unsigned>(least)) == static_cast<unsigned>(least);
}

Type source_type(const PanelMatrix& weight) { return weight.type == Compute::f32 ? Type::f32 : Type::bf16; }

Format panel_format(const PanelMatrix& weight) {
  return weight.type == Compute::f32 ? Format::BA16a64b : Format::BA16a64b2a;
}

}  // namespace

struct MatrixProduct::State {
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, Compute, bool, bool, int>;

  const dnnl::matmul& primitive(const PanelMatrix& weight, std::int64_t rows, bool bias, bool accumulate);
  dnnl::memory memory(const dnnl::memory::dims& shape, Type type, Format format, const void* data) const {
    // oneDNN's interface knows no constant memory; sources are only read.
    return {{shape, type, format}, engine, const_cast<void*>(data)};
  }

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Key, dnnl::matmul> primitives;
};

const dnnl::matmul& MatrixProduct::State::primitive(const PanelMatrix& weight, std::int64_t rows, bool bias,
                                                    bool accumulate) {
  const Key key = {rows, weight.out, weight.in, weight.type, bias, accumulate, thread_count()};
  const auto found = primitives.find(key);
  if (found != primitives.end()) return found->second;
  const Type type = source_type(weight);
  const dnnl::memory::desc x({rows, weight.in}, type, Format::ab);
  const dnnl::memory::desc w({weight.in, weight.out}, type, panel_format(weight));
  const dnnl::memory::desc y({rows, weight.out}, Type::f32, Format::ab);
  const auto desc = bias ? dnnl::matmul::desc(x, w, {{1, weight.out}, Type::f32, Format::ab}, y)
                         : dnnl::matmul::desc(x, w, y);
  dnnl::primitive_attr attributes;
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1);
    attributes.set_post_ops(sum);
  }
  return primitives.emplace(key, dnnl::matmul::primitive_desc(desc, attributes, engine)).first->second;
}

MatrixProduct::MatrixProduct() : state_(std::make_unique<State>()) {}
MatrixProduct::~MatrixProduct() = default;

bool MatrixProduct::supports(Compute type) const {
  return has_isa(type == Compute::f32 ? dnnl::cpu_isa::avx512_core : dnnl::cpu_isa::avx512_core_amx);
}

void MatrixProduct::run(const PanelMatrix& weight, const float* bias, std::int64_t rows, const void* x,
                        float* y, bool accumulate) {
  const Type type = source_type(weight);
  const std::int64_t element_bytes = weight.type == Compute::f32 ? 4 : 2;
  const auto* source = static_cast<const std::byte*>(x);
  dnnl::memory w =
      state_->memory({weight.in, weight.out}, type, panel_format(weight), weight.data.as<std::byte>());
  while (rows > 0) {
    const std::int64_t count =
        rows < row_granule ? rows : std::min(most_rows, rows / row_granule * row_granule);
    std::unordered_map<int, dnnl::memory> arguments = {
        {DNNL_ARG_SRC, state_->memory({count, weight.in}, type, Format::ab, source)},
        {DNNL_ARG_WEIGHTS, w},
        {DNNL_ARG_DST, state_->memory({count, weight.out}, Type::f32, Format::ab, y)}};
    if (bias != nullptr)
      arguments.emplace(DNNL_ARG_BIAS, state_->memory({1, weight.out}, Type::f32, Format::ab, bias));
    state_->primitive(weight, count, bias != nullptr, accumulate).execute(state_->stream, arguments);
    rows -= count;
    source += count * weight.in * element_bytes;
    y += count * weight.out;
  }
}

}  // namespace fathom
