#include "train/step/micro_batch.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fathom {
namespace {

at::Tensor ids_of(std::span<const Token> tokens, std::int64_t sequences) {
  at::Tensor ids = at::empty({sequences, std::ssize(tokens) / sequences}, at::kLong);
  std::ranges::copy(tokens, ids.data_ptr<std::int64_t>());
  return ids;
}

std::vector<Sequence> sequences_at(Packing& packing, std::int64_t first, std::int64_t count) {
  std::vector<Sequence> result;
  for (std::int64_t i = first; i < first + count; ++i) result.push_back(packing.at(i));
  return result;
}

std::vector<std::int64_t> positions_from(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(count));
  std::iota(result.begin(), result.end(), first);
  return result;
}

}  // namespace

MicroBatch::MicroBatch(std::vector<Sequence> own, std::vector<std::int64_t> own_positions)
    : sequences(std::move(own)), positions(std::move(own_positions)) {
  std::int64_t row = 0;
  for (const Sequence& sequence : sequences) {
    for (const Token label : sequence.labels) {
      if (label >= 0) {
        labels.push_back(label);
        rows.push_back(row);
      }
      ++row;
    }
  }
}

MicroBatch::MicroBatch(Packing& packing, std::int64_t first, std::int64_t count)
    : MicroBatch(sequences_at(packing, first, count), positions_from(first, count)) {}

const at::Tensor& Streams::after(std::int64_t visit) const {
  return rows[static_cast<std::size_t>(std::ranges::lower_bound(visits, visit) - visits.begin())];
}

Streams forward(TrainModel& model, const MicroBatch& batch, const std::set<std::int64_t>& wanted,
                const Kept& kept) {
  Streams result{.visits = {wanted.begin(), wanted.end()}, .rows = {}};
  const at::Device device = model.operations().device();
  std::vector<std::vector<at::Tensor>> parts(wanted.size());
  const auto run = [&](std::span<const Token> tokens, std::span<const std::int64_t> positions) {
    const at::Tensor ids = ids_of(tokens, std::ssize(positions)).to(device);
    const auto streams = model.streams(ids, result.visits, kept ? kept(positions) : KeptSequences());
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].push_back(streams[i]);
  };
  if (std::ranges::all_of(batch.sequences, [](const Sequence& s) { return s.starts.size() == 1; })) {
    std::vector<Token> tokens;
    for (const Sequence& s : batch.sequences) tokens.insert(tokens.end(), s.inputs.begin(), s.inputs.end());
    run(tokens, batch.positions);
  } else {
    for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
      const Sequence& sequence = batch.sequences[s];
      for (std::size_t i = 0; i < sequence.starts.size(); ++i) {
        const auto [first, count] = document_rows(sequence, i);
        run(std::span(sequence.inputs)
                .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            {&batch.positions[s], 1});
      }
    }
  }
  const at::Tensor learned = at::tensor(at::ArrayRef<std::int64_t>(batch.rows), at::kLong).to(device);
  for (const auto& part : parts) {
    const at::Tensor all = part.size() == 1 ? part.front() : at::cat(part);
    const bool whole = std::ssize(batch.rows) == all.size(0);
    result.rows.push_back(whole ? all : all.index_select(0, learned));
  }
  return result;
}

}  // namespace fathom
