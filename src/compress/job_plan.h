// How a job's minutes are spent. What is measured in its first seconds decides how much it samples, measures
// and fits before it trains, so that training has most of the time on any machine.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/engine.h"

namespace fathom {

/// What the machine makes of the original in a second.
struct Pace {
  double pack_seconds = 0;  ///< to make an engine
  double read = 0;          ///< tokens of prompts
  double write = 0;         ///< tokens of `write_batch` texts side by side
  std::int64_t write_batch = 1;
  double write_one = 0;  ///< tokens of a single text
  double multiply = 0;   ///< floating-point operations of linear algebra, on all threads
  double judge = 0;      ///< tokens whose loss is measured, on the device that judges
  double train = 0;      ///< tokens learned, the original as teacher beside
};

/// Measures with some hundred tokens, by an engine that took `pack_seconds` to make. Judging is reading here,
/// and training is taken to be a sixth as fast as that (SmolLM2 on two cores: with AMX 983 tokens a second
/// beside 9,612, by AVX2 128 beside 590): where another device does either, its own pace is to be put in.
Pace measure_pace(Engine& engine, double pack_seconds);

/// What a job has to do, whatever the machine.
struct JobNeeds {
  double minutes = 0;
  int candidates = 1;
  bool samples = true;  ///< the model writes its own corpus
  std::int64_t context = 512;
  double calibration_operations = 0;  ///< floating-point, of a token's moments at all tied visits; 0: none
  double round_operations = 0;        ///< of a round of the calibrated fit
};

/// Sizes, and the seconds that each is expected to take.
struct JobPlan {
  std::int64_t sample_tokens = 0;
  std::int64_t profile_tokens = 0;
  std::int64_t rounds = 0;
  std::int64_t windows = 0;   ///< to judge a model by
  int speed_repetitions = 1;  ///< of the original and of trained models
  double sample_seconds = 0, profile_seconds = 0, fit_seconds = 0, repair_seconds = 0;
  double judge_seconds = 0, speed_seconds = 0;  ///< of one model
  double preparation_seconds = 0;               ///< all that lies before the training
  double training_seconds = 0;                  ///< of all candidates together
};

/// Of a job's minutes training gets half at least, and so much more that a last step, which may be long, is
/// not missing from that.
inline constexpr double least_training_share = 0.6;

/// Preparation gets a third of the minutes, and needs more only where the least that makes sense of
/// everything does (four windows, two to profile, four rounds, six documents): such a job takes longer than
/// it was given. What fast machines do not need for the one goes to training.
JobPlan plan_job(const JobNeeds& needs, const Pace& pace);

/// What is going to happen, a line each, for people; `step` says how a step of training looks.
std::string describe(const JobPlan& plan, const JobNeeds& needs, const std::string& step);

}  // namespace fathom
