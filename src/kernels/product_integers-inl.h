// Products with integer weights by one of byte_units.h. As these, for the files named after an instruction
// set alone.
//
// A panel is read once for a few rows, whose sums stay in registers; several panels side by side.
#pragma once

#include <cstring>

#include "kernels/byte_units.h"
#include "kernels/row_blocks.h"

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
      : weight_(weight), x_(x), to_(to), shape_(weight) {}

  void run(Range rows, Range panels) const {
    if (rows.last - rows.first <= few) return few_rows(rows, panels);
    std::int64_t panel = panels.first;
    for (; panel + together <= panels.last; panel += together) rows_of<together>(rows, panel);
    for (; panel + 2 <= panels.last; panel += 2) rows_of<2>(rows, panel);
    if (panel < panels.last) rows_of<1>(rows, panel);
  }

 private:
  // Of 32 registers 4 rows x 4 panels of 512 bits take 16 for sums, and so do 4 rows of a panel of 128 bits;
  // 4 rows of a panel of 256 bits take 8 of 16, beside what is multiplied.
  static constexpr bool wide = V::lanes == 16;
  static constexpr int together = wide ? 4 : 2, few = wide ? 2 : 4;
  /// Panels whose sums are in registers at a time; others take turns.
  template <int R, int P>
  static constexpr int side_by_side = wide                                    ? (R <= 2 || P < 4 ? P : 4)
                                      : V::lanes == 4 && R <= 2 && P % 2 == 0 ? 2
                                                                              : 1;

  // Results, in one order of operations for any R and P, so that a row's are the same beside any others.
  template <int R, int P>
  using Totals = Floats[R][P][vectors];

  template <int P>
  void rows_of(Range rows, std::int64_t panel) const {
    in_row_blocks<4>(rows, [&](auto count, std::int64_t row) {
      constexpr int R = decltype(count)::value;
      Totals<R, P> totals;
      find_totals<R, P>(row, weight_.panel(panel), shape_.panel_bytes, totals);
      write_block(weight_, to_, {row, R, panel, P, totals, nullptr});
    });
  }

  // Few rows are bound by reading the weights, and several streams of memory are faster than one. Each goes
  // through panels that follow one another: panels of kilobytes that began far from where the last ones ended
  // were read at 10 GB/s a core, not 20. A gate and its up projection are written together.
  void few_rows(Range rows, Range panels) const {
    const std::int64_t unit = weight_.gated ? 2 : 1;
    for (std::int64_t first = panels.first; first < panels.last;) {
      const std::int64_t units = (panels.last - first) / unit;
      first += in_streams<8, 7, 6, 5, 4, 3, 2, 1>(best_streams(units), rows, first, units) * unit;
    }
  }

  // As many as leave fewest units for a second turn.
  static std::int64_t best_streams(std::int64_t units) {
    if (units <= 8) return units;
    std::int64_t best = 8;
    for (std::int64_t streams = 7; streams >= 5; --streams)
      if (units % streams < units % best) best = streams;
    return best;
  }

  template <int... P>
  std::int64_t in_streams(std::int64_t streams, Range rows, std::int64_t first, std::int64_t units) const {
    ((streams == P ? in_row_blocks<few>(rows,
                                        [&](auto count, std::int64_t row) {
                                          streams_of<decltype(count)::value, P>(row, first, units / P);
                                        })
                   : void()),
     ...);
    return units / streams * streams;
  }

  // A block of rows, with `length` units of each of P streams.
  template <int R, int P>
  void streams_of(std::int64_t row, std::int64_t first, std::int64_t length) const {
    const int unit = weight_.gated ? 2 : 1;
    for (std::int64_t i = 0; i < length; ++i) {
      alignas(64) float block[P][R * 2 * panel_outputs];
      for (int half = 0; half < unit; ++half) {
        alignas(64) Totals<R, P> totals;
        find_totals<R, P>(row, weight_.panel(first + i * unit + half), length * unit * shape_.panel_bytes,
                          totals);
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p)
            std::memcpy(block[p] + (r * unit + half) * panel_outputs, totals[r][p], sizeof totals[r][p]);
      }
      for (int p = 0; p < P; ++p)
        write_block(weight_, to_, {row, R, first + (p * length + i) * unit, unit, block[p], nullptr});
    }
  }

  // Of the panel at `panels` and P - 1 others, each `apart` bytes from the one before.
  template <int R, int P>
  void find_totals(std::int64_t row, const std::byte* panels, std::int64_t apart,
                   Totals<R, P>& totals) const {
    if (weight_.type == Compute::int8)
      int8_totals<R, P>(row, panels, apart, totals);
    else if (weight_.type == Compute::int4)
      int4_totals<R, P>(row, panels, apart, totals);
    else if (weight_.four_bits())
      group_totals<R, P, true>(row, panels, apart, totals);
    else
      group_totals<R, P, false>(row, panels, apart, totals);
  }

  // What the loops need of a matrix. They keep a copy of their own: a store of a vector could be to whatever
  // lies elsewhere, which would then be read, and divided, anew.
  struct Shape {
    explicit Shape(const PackedMatrix& weight)
        : padded_in(weight.padded_in),
          group(weight.group),
          groups(weight.groups()),
          panel_bytes(weight.panel_bytes()),
          scales(weight.weight_bytes()),
          group_bytes(weight.group_bytes()),
          minima(scales + groups * group_bytes),
          has_minima(weight.minima),
          half_scales(weight.half_scales) {}

    // A vector of a group's scales or minima.
    [[gnu::always_inline]] Floats group_values(const std::byte* of_group, int vector) const {
      if (!half_scales) return V::load(reinterpret_cast<const float*>(of_group) + vector * V::lanes);
      return V::load_f16(reinterpret_cast<const std::uint16_t*>(of_group) + vector * V::lanes);
    }

    std::int64_t padded_in, group, groups, panel_bytes;
    std::int64_t scales, group_bytes, minima;  // within a panel
    bool has_minima, half_scales;
  };

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

  // Calls body(p) for the first of each Q panels whose sums are computed together.
  template <int Q, int P, typename Body>
  [[gnu::always_inline]] static void in_turns(Body&& body) {
    unrolled<P / Q>([&](auto turn)
                        __attribute__((always_inline)) { body(std::integral_constant<int, turn * Q>()); });
  }

  template <int R, int P>
  void int8_totals(std::int64_t row, const std::byte* panels, std::int64_t apart,
                   Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    const Shape shape = shape_;
    const RowsAt<R> rows(x_, row, 0);
    Sums<V, R, Q> sums[P / Q];
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < vectors; ++i)
        for (int r = 0; r < R; ++r)
          sums[p / Q].of[r][p % Q][i] = Unit::whole_start(weight_.offsets(panels + p * apart) + i * V::lanes);
    constexpr std::int64_t beside = 64;  // inputs of a row that lie side by side
    for (std::int64_t k = 0; k < shape.padded_in; k += beside) {
      const Inputs<R> inputs = rows.from(k);
      const std::int64_t left = shape.padded_in - k, count = left < beside ? left : beside;
      in_turns<Q, P>([&](auto p) __attribute__((always_inline)) {
        const Panels here = {panels + p * apart + k * panel_outputs, apart};
        Unit::add_whole(inputs, count, here, sums[p / Q]);
      });
    }
    scale<R, P>(row, panels, apart, sums, totals);
  }

  // Whole sums of groups, times their multipliers.
  template <int R, int P>
  void int4_totals(std::int64_t row, const std::byte* panels, std::int64_t apart,
                   Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    const Shape shape = shape_;
    const RowsAt<R> rows(x_, row, shape.groups);
    const std::int32_t zero = weight_.zero();
    const std::int32_t* row_sums = x_.sums;
    Sums<V, R, Q> whole[P / Q];
    for (auto& some : whole)
      for (int r = 0; r < R; ++r) some.set(r, V::all(0));
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Inputs<R> inputs = rows.from(g * shape.group);
      const Starts<R> starts = rows.starts(row_sums, zero, g);
      in_turns<Q, P>([&](auto p) __attribute__((always_inline)) {
        const std::byte* first = panels + p * apart;
        Sums<V, R, Q> sums;
        Unit::sum_four_bits(inputs, starts, shape.group,
                            {first + g * shape.group * (panel_outputs / 2), apart}, sums);
        each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
          const std::byte* multipliers = first + q * apart + shape.scales + g * panel_outputs + i * V::lanes;
          const Ints factors = V::bytes_widened(reinterpret_cast<const std::int8_t*>(multipliers));
          for (int r = 0; r < R; ++r) {
            Ints& sum = whole[p / Q].of[r][q][i];
            sum = V::add(sum, V::multiply(sums.of[r][q][i], factors));
          }
        });
      });
    }
    scale<R, P>(row, panels, apart, whole, totals);
  }

  // total = sum * (scale * the activations' scale) + total, then total = minimum * scaled sum of the
  // activations + total, group by group, as the other kernels do.
  template <int R, int P, bool four_bits>
  void group_totals(std::int64_t row, const std::byte* panels, std::int64_t apart,
                    Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    const Shape shape = shape_;
    const Activations x = x_;
    const RowsAt<R> rows(x, row, shape.groups);
    const std::int32_t zero = four_bits ? weight_.zero() : Unit::group_zero;
    for (auto& of_row : totals)
      for (auto& of_panel : of_row)
        for (Floats& total : of_panel) total = V::all(0.0F);
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const Inputs<R> inputs = rows.from(g * shape.group);
      const Starts<R> starts = rows.starts(x.sums, zero, g);
      in_turns<Q, P>([&](auto p) __attribute__((always_inline)) {
        const std::byte* first = panels + p * apart;
        const Panels here = {first + g * shape.group * (panel_outputs / (four_bits ? 2 : 1)), apart};
        Sums<V, R, Q> sums;
        if constexpr (four_bits)
          Unit::sum_four_bits(inputs, starts, shape.group, here, sums);
        else
          Unit::sum_group(inputs, starts, shape.group, here, sums);
        each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
          const std::byte* of_group = first + q * apart + g * shape.group_bytes;
          const Floats scales = shape.group_values(of_group + shape.scales, i);
          for (int r = 0; r < R; ++r) {
            Floats& total = totals[r][p + q][i];
            total = V::multiply_add(V::floats(sums.of[r][q][i]),
                                    V::multiply(scales, V::all(x.scales[rows.in_sums(r, g)])), total);
          }
          if (!shape.has_minima) return;
          const Floats minima = shape.group_values(of_group + shape.minima, i);
          for (int r = 0; r < R; ++r) {
            Floats& total = totals[r][p + q][i];
            total = V::multiply_add(minima, V::all(x.scaled_sums[rows.in_sums(r, g)]), total);
          }
        });
      });
    }
  }

  template <int R, int P, int Q>
  void scale(std::int64_t row, const std::byte* panels, std::int64_t apart,
             const Sums<V, R, Q> (&sums)[P / Q], Totals<R, P>& totals) const {
    for (int p = 0; p < P; ++p) {
      for (int i = 0; i < vectors; ++i) {
        const Floats scales = V::load(weight_.scales(panels + p * apart) + i * V::lanes);
        for (int r = 0; r < R; ++r)
          totals[r][p][i] = V::multiply(
              V::multiply(V::floats(sums[p / Q].of[r][p % Q][i]), V::all(x_.scales[row + r])), scales);
      }
    }
  }

  const PackedMatrix& weight_;
  const Activations& x_;
  const Destination& to_;
  Shape shape_;
};

}  // namespace
}  // namespace fathom::products
