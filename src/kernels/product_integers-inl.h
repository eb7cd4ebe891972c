// Products with integer weights by one of byte_units.h. As these, for the files named after an instruction
// set alone.
//
// A panel is read once for a few rows, whose sums stay in registers; several panels side by side.
#pragma once

#include <cstring>

#include "kernels/byte_units.h"
#include "kernels/row_blocks.h"
#include "kernels/stretch.h"

namespace fathom::products {
namespace {

template <typename Unit>
class IntegerProduct {
 public:
  using V = typename Unit::Vectors;
  using Ints = typename V::Ints;
  using Floats = typename V::Floats;
  static constexpr int vectors = panel_vectors<V>;

  IntegerProduct(const PackedMatrix& weight, const Activations& x, const Destination& to)
      : weight_(weight), x_(x), to_(to) {}

  void run(Range rows, Range panels) const {
    if (rows.last - rows.first <= few) return few_rows(rows, panels);
    for (std::int64_t first = panels.first; first < panels.last; first += together) {
      const PanelRun run = {weight_.panel(first), weight_.panel_bytes(),
                            least(together, panels.last - first)};
      for (std::int64_t row = rows.first; row < rows.last; row += chunk) {
        const std::int64_t count = least(chunk, rows.last - row);
        alignas(64) float results[chunk * together * panel_outputs];
        find({row, row + count}, run, results);
        write_block(weight_, to_, {row, count, first, run.count, results, nullptr});
      }
    }
  }

 private:
  // Of 32 registers 4 rows x 4 panels of 512 bits take 16 for sums, and so do 4 rows of a panel of 128 bits;
  // 4 rows of a panel of 256 bits take 8 of 16, beside what is multiplied, and panels then take turns.
  static constexpr int block_rows = 4, side_by_side = V::lanes == 16 ? 4 : 1;
  static constexpr std::int64_t together = V::lanes == 16 ? 4 : 2;
  // Rows whose results, 4 to 8 KB, stay in the L1 cache beside two or four stretches.
  static constexpr std::int64_t chunk = 32;
  // So few rows are bound by reading the weights.
  static constexpr std::int64_t few = 4;

  static std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

  // `count` panels, each `apart` bytes from the one before.
  struct PanelRun {
    const std::byte* first = nullptr;
    std::int64_t apart = 0, count = 0;
    const std::byte* at(std::int64_t p) const { return first + p * apart; }
  };

  // Several streams of memory are faster than one. Each goes through panels that follow one another: panels
  // of kilobytes that began far from where the last ones ended were read at 10 GB/s a core, not 20. A gate
  // and its up projection are written together.
  void few_rows(Range rows, Range panels) const {
    const std::int64_t unit = weight_.gated ? 2 : 1, count = rows.last - rows.first;
    for (std::int64_t first = panels.first; first < panels.last;) {
      const std::int64_t units = (panels.last - first) / unit, streams = streams_for(units);
      const std::int64_t length = units / streams;
      for (std::int64_t i = 0; i < length; ++i) {
        alignas(64) float results[2][few * most_streams * panel_outputs];
        for (std::int64_t half = 0; half < unit; ++half)
          find(rows, {weight_.panel(first + i * unit + half), length * unit * weight_.panel_bytes(), streams},
               results[half]);
        for (std::int64_t s = 0; s < streams; ++s) {
          alignas(64) float block[few * 2 * panel_outputs];
          for (std::int64_t r = 0; r < count; ++r)
            for (std::int64_t half = 0; half < unit; ++half)
              std::memcpy(block + (r * unit + half) * panel_outputs,
                          results[half] + (r * streams + s) * panel_outputs, panel_outputs * sizeof(float));
          write_block(weight_, to_,
                      {rows.first, count, first + (s * length + i) * unit, unit, block, nullptr});
        }
      }
      first += length * streams * unit;
    }
  }

  // As many as leave fewest units for a second turn.
  static std::int64_t streams_for(std::int64_t units) {
    const std::int64_t most = memory_habits().streams;
    if (units <= most) return units;
    std::int64_t best = most;
    for (std::int64_t streams = most - 1; streams > most / 2; --streams)
      if (units % streams < units % best) best = streams;
    return best;
  }

  // Calls body(Q, p) for each Q panels from p on, a constant.
  template <int Q = side_by_side, typename Body>
  static void in_turns(std::int64_t panels, const Body& body, std::int64_t p = 0) {
    for (; p + Q <= panels; p += Q) body(std::integral_constant<int, Q>(), p);
    if constexpr (Q > 1)
      if (p < panels) in_turns<Q / 2>(panels, body, p);
  }

  // results[rows][run.count][16], without bias: each row's in one order of operations, so that they are the
  // same beside any others.
  void find(Range rows, const PanelRun& run, float* results) const {
    if (weight_.type == Compute::int8) return find_whole(rows, run, results, int8_sums);
    if (weight_.type == Compute::int4) return find_whole(rows, run, results, int4_sums);
    if (weight_.bits() == 8) return find_groups<Form::bytes>(rows, run, results);
    if (weight_.bits() == 4) return find_groups<Form::four_bits>(rows, run, results);
    if (rows.last - rows.first > few) return find_groups<Form::wide>(rows, run, results);
    find_groups<Form::six_bits>(rows, run, results);
  }

  // Where R rows' values and sums are.
  template <int R>
  struct RowsAt {
    RowsAt(const Activations& x, std::int64_t row, std::int64_t groups) {
      for (int r = 0; r < R; ++r) {
        values[r] = x.data + tiled_offset(x.stride, row + r, 0);
        first[r] = group_offset(groups, row + r, 0);
      }
    }
    [[gnu::always_inline]] Inputs<R> from(std::int64_t input) const {
      Inputs<R> inputs;
      for (int r = 0; r < R; ++r) inputs.of[r] = values[r] + tiled_offset(0, 0, input);
      return inputs;
    }
    [[gnu::always_inline]] std::int64_t in_sums(int r, std::int64_t g) const { return first[r] + g * 16; }
    // Stored weights are `zero` more than they stand for.
    [[gnu::always_inline]] Starts<R> starts(const std::int32_t* sums, std::int32_t zero,
                                            std::int64_t g) const {
      Starts<R> starts;
      for (int r = 0; r < R; ++r) starts.of[r] = -zero * sums[in_sums(r, g)];
      return starts;
    }
    const std::byte* values[R];
    std::int64_t first[R];  // in Activations::sums
  };

  // Whole sums times the scales of rows and outputs.
  template <typename FindSums>
  void find_whole(Range rows, const PanelRun& run, float* results, const FindSums& find_sums) const {
    in_row_blocks<block_rows>(rows, [&](auto rows_here, std::int64_t row) {
      in_turns(run.count, [&](auto panels_here, std::int64_t p) {
        constexpr int R = decltype(rows_here)::value, Q = decltype(panels_here)::value;
        const std::byte* panels[Q];
        for (int q = 0; q < Q; ++q) panels[q] = run.at(p + q);
        Sums<V, R, Q> sums;
        find_sums(weight_, x_, row, panels, sums);
        float* to = results + ((row - rows.first) * run.count + p) * panel_outputs;
        for (int r = 0; r < R; ++r)
          for (int q = 0; q < Q; ++q)
            for (int i = 0; i < vectors; ++i) {
              const Floats scaled = V::multiply(V::floats(sums.of[r][q][i]), V::all(x_.scales[row + r]));
              V::store(V::multiply(scaled, V::load(weight_.scales(panels[q]) + i * V::lanes)),
                       to + (r * run.count + q) * panel_outputs + i * V::lanes);
            }
      });
    });
  }

  // The loops below keep copies of what they need of a matrix: a store of a vector could be to whatever lies
  // elsewhere, which would then be read, and divided, anew.

  static constexpr auto int8_sums = []<int R, int Q>(const PackedMatrix& weight, const Activations& x,
                                                     std::int64_t row, const std::byte* (&panels)[Q],
                                                     Sums<V, R, Q>& sums) {
    const std::int64_t padded_in = weight.padded_in;
    const RowsAt<R> rows(x, row, 0);
    for (int q = 0; q < Q; ++q)
      for (int i = 0; i < vectors; ++i)
        for (int r = 0; r < R; ++r)
          sums.of[r][q][i] = Unit::whole_start(weight.offsets(panels[q]) + i * V::lanes);
    const std::int64_t ahead = memory_habits().ahead;
    constexpr std::int64_t beside = 64;  // inputs of a row that lie side by side
    for (std::int64_t k = 0; k < padded_in; k += beside)
      Unit::add_whole(rows.from(k), least(beside, padded_in - k), Panels<Q>(panels, k * panel_outputs, ahead),
                      sums);
  };

  // Sums of groups times their multipliers.
  static constexpr auto int4_sums = []<int R, int Q>(const PackedMatrix& weight, const Activations& x,
                                                     std::int64_t row, const std::byte* (&panels)[Q],
                                                     Sums<V, R, Q>& sums) {
    const std::int64_t size = weight.group, all = weight.stretches();
    const RowsAt<R> rows(x, row, weight.groups());
    const std::int32_t* row_sums = x.sums;
    const std::int64_t ahead = memory_habits().ahead;
    for (int r = 0; r < R; ++r) sums.set(r, V::all(0));
    for (std::int64_t s = 0; s < all; ++s) {
      const std::byte* weights[Q];
      const std::int8_t* multipliers[Q];
      std::int64_t groups = 0, first_group = 0, first_input = 0;
      for (int q = 0; q < Q; ++q) {
        StretchRoom none;
        const Stretch stretch = read_stretch(weight, panels[q], s, false, none);
        weights[q] = stretch.weights;
        multipliers[q] = stretch.multipliers;
        groups = stretch.groups;
        first_group = stretch.first_group;
        first_input = stretch.first_input;
      }
      for (std::int64_t g = 0; g < groups; ++g) {
        Sums<V, R, Q> own;
        Unit::sum_four_bits(rows.from(first_input + g * size), rows.starts(row_sums, 8, first_group + g),
                            size, Panels<Q>(weights, g * size * (panel_outputs / 2), ahead), own);
        each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
          const Ints factors = V::bytes_widened(multipliers[q] + g * panel_outputs + i * V::lanes);
          for (int r = 0; r < R; ++r)
            sums.of[r][q][i] = V::add(sums.of[r][q][i], V::multiply(own.of[r][q][i], factors));
        });
      }
    }
  };

  /// Weights in groups: as they are stored, but `wide`, 6 bits as bytes, which is worth it for several blocks
  /// of rows.
  enum class Form { bytes, four_bits, six_bits, wide };

  template <Form form>
  void find_groups(Range rows, const PanelRun& run, float* results) const {
    std::memset(
        results, 0,
        static_cast<std::size_t>((rows.last - rows.first) * run.count * panel_outputs) * sizeof(float));
    StretchRoom rooms[most_streams];
    Stretch stretches[most_streams];
    const std::int64_t all = weight_.stretches();
    for (std::int64_t s = 0; s < all; ++s) {
      for (std::int64_t p = 0; p < run.count; ++p)
        stretches[p] = read_stretch(weight_, run.at(p), s, form == Form::wide, rooms[p]);
      in_row_blocks<block_rows>(rows, [&](auto rows_here, std::int64_t row) {
        in_turns(run.count, [&](auto panels_here, std::int64_t p) {
          add_stretch<form, decltype(rows_here)::value, decltype(panels_here)::value>(
              row, stretches + p, results + ((row - rows.first) * run.count + p) * panel_outputs,
              run.count * panel_outputs);
        });
      });
    }
  }

  // total = sum * (scale * the activations' scale) + total, then total = minimum * scaled sum of the
  // activations + total, group by group, as the other kernels do.
  template <Form form, int R, int Q>
  void add_stretch(std::int64_t row, const Stretch* stretches, float* results, std::int64_t apart) const {
    const std::int64_t size = weight_.group, groups = stretches->groups;
    const std::int64_t first_group = stretches->first_group, first_input = stretches->first_input;
    const Activations x = x_;
    const RowsAt<R> rows(x, row, weight_.groups());
    const std::int32_t zero = form == Form::bytes ? Unit::group_zero : weight_.zero();
    const bool has_minima = weight_.minima;
    const std::int64_t ahead = memory_habits().ahead;
    const std::int64_t group_bytes = form == Form::wide ? size * panel_outputs : weight_.weight_bytes(size);
    const std::byte* weights[Q];
    const float *scales[Q], *minima[Q];
    for (int q = 0; q < Q; ++q) {
      weights[q] = stretches[q].weights;
      scales[q] = stretches[q].scales;
      minima[q] = stretches[q].minima;
    }
    Floats totals[R][Q][vectors];
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < Q; ++q)
        for (int i = 0; i < vectors; ++i)
          totals[r][q][i] = V::load(results + r * apart + q * panel_outputs + i * V::lanes);
    for (std::int64_t g = 0; g < groups; ++g) {
      const Inputs<R> inputs = rows.from(first_input + g * size);
      const Starts<R> starts = rows.starts(x.sums, zero, first_group + g);
      const Panels<Q> here(weights, g * group_bytes, ahead);
      Sums<V, R, Q> sums;
      if constexpr (form == Form::four_bits)
        Unit::sum_four_bits(inputs, starts, size, here, sums);
      else if constexpr (form == Form::six_bits)
        Unit::sum_six_bits(inputs, starts, size, here, sums);
      else if constexpr (form == Form::wide)
        Unit::sum_wide_six_bits(inputs, starts, size, here, sums);
      else
        Unit::sum_group(inputs, starts, size, here, sums);
      each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
        const Floats own = V::load(scales[q] + g * panel_outputs + i * V::lanes);
        for (int r = 0; r < R; ++r)
          totals[r][q][i] = V::multiply_add(
              V::floats(sums.of[r][q][i]),
              V::multiply(own, V::all(x.scales[rows.in_sums(r, first_group + g)])), totals[r][q][i]);
        if (!has_minima) return;
        const Floats least_value = V::load(minima[q] + g * panel_outputs + i * V::lanes);
        for (int r = 0; r < R; ++r)
          totals[r][q][i] = V::multiply_add(
              least_value, V::all(x.scaled_sums[rows.in_sums(r, first_group + g)]), totals[r][q][i]);
      });
    }
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < Q; ++q)
        for (int i = 0; i < vectors; ++i)
          V::store(totals[r][q][i], results + r * apart + q * panel_outputs + i * V::lanes);
  }

  const PackedMatrix& weight_;
  const Activations& x_;
  const Destination& to_;
};

}  // namespace
}  // namespace fathom::products
