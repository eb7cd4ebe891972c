// What the options of training are called, on the command line and in a run's identity, and their limits.
#pragma once

#include <algorithm>
#include <map>
#include <string>

#include "train/train.h"

namespace fathom {

template <typename T>
using Names = std::map<std::string, T>;

inline const Names<Trainable> trainables = {
    {"all", Trainable::all}, {"adapters", Trainable::adapters}, {"lora", Trainable::lora}};
inline const Names<Device> devices = {
    {"auto", Device::automatic}, {"cpu", Device::cpu}, {"cuda", Device::cuda}, {"torch", Device::torch}};
inline const Names<FrozenType> frozen_types = {
    {"full", FrozenType::full}, {"nf4", FrozenType::nf4}, {"int4", FrozenType::int4}};
inline const Names<Divergence> divergences = {{"forward-kl", Divergence::forward_kl},
                                              {"reverse-kl", Divergence::reverse_kl},
                                              {"jensen-shannon", Divergence::jensen_shannon},
                                              {"total-variation", Divergence::total_variation}};
inline const Names<ExitWeighting> exit_weightings = {{"aggressive", ExitWeighting::aggressive},
                                                     {"weighted", ExitWeighting::weighted},
                                                     {"layerskip", ExitWeighting::layerskip}};
inline const Names<ExitCurriculum> exit_curricula = {{"all", ExitCurriculum::all},
                                                     {"rotational", ExitCurriculum::rotational},
                                                     {"gradual", ExitCurriculum::gradual}};
inline const Names<BadStep> bad_steps = {
    {"note", BadStep::note}, {"skip", BadStep::skip}, {"stop", BadStep::stop}};

/// All values have one.
template <typename T>
const std::string& name_of(const Names<T>& names, T value) {
  return std::ranges::find(names, value, &Names<T>::value_type::second)->first;
}

/// Throws UsageError for a value that makes no sense, naming it.
void check_options(const TrainOptions& options);

}  // namespace fathom
