#include "train/run/launch.h"

#include <charconv>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

/// How a launcher calls what it says.
struct Names {
  const char *launcher, *rank, *ranks, *local_rank;
};
constexpr Names torchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names open_mpi = {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK"};
constexpr Names slurm = {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"};

class Environment {
 public:
  explicit Environment(const std::function<const char*(const char*)>& variable) : variable_(variable) {}

  std::string_view text(const char* name) const {
    const char* value = variable_(name);
    return value != nullptr ? value : "";
  }
  bool has(const char* name) const { return !text(name).empty(); }

  int number(const char* name, int least, int most) const {
    const std::string_view found = text(name);
    int value = 0;
    const auto [end, error] = std::from_chars(found.data(), found.data() + found.size(), value);
    if (error != std::errc() || end != found.data() + found.size() || value < least || value > most) {
      fail_usage("the environment's {} is '{}', expected a whole number from {} to {}", name, found, least,
                 most);
    }
    return value;
  }

  /// Slurm also tells a script of its processes (their number) and its own place (0) where it starts no
  /// others.
  bool speaks(const Names& names) const {
    return names.launcher == slurm.launcher ? has(names.rank) && has(names.ranks)
                                            : has(names.rank) || has(names.ranks);
  }

  void need(const char* name, const Names& names) const {
    if (has(name)) return;
    fail_usage(
        "the environment has {} but no {}: several processes need {}, {}, MASTER_ADDR and MASTER_PORT (or to "
        "be started by torchrun, mpirun or srun); one process alone needs none of them",
        has(names.rank) ? names.rank : names.ranks, name, names.rank, names.ranks);
  }

 private:
  const std::function<const char*(const char*)>& variable_;
};

/// The first of "node[03-07,12],other": node03.
std::string first_host(std::string_view list) {
  const std::string_view name = list.substr(0, list.find_first_of(",["));
  if (name.size() == list.size() || list[name.size()] == ',') return std::string(name);
  const std::string_view numbers = list.substr(name.size() + 1);
  const std::size_t end = numbers.find(']');
  const std::string_view after = end == std::string_view::npos ? "" : numbers.substr(end + 1);
  return std::string(name) + std::string(numbers.substr(0, numbers.find_first_of("-,]"))) +
         std::string(after.substr(0, after.find(',')));
}

std::string address_of(const Environment& environment, const Names& names, int ranks) {
  if (environment.has("MASTER_ADDR")) return std::string(environment.text("MASTER_ADDR"));
  if (names.launcher == slurm.launcher) {
    for (const char* list : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"}) {
      if (environment.has(list)) return first_host(environment.text(list));
    }
  }
  constexpr const char* on_this_machine = "OMPI_COMM_WORLD_LOCAL_SIZE";
  if (environment.has(on_this_machine) && environment.number(on_this_machine, 1, ranks) == ranks) {
    return "127.0.0.1";
  }
  fail_usage(
      "{} started {} processes, but does not say where the first one runs: set MASTER_ADDR to its machine",
      names.launcher, ranks);
}

}  // namespace

Launch launch_from(const std::function<const char*(const char*)>& variable) {
  const Environment environment(variable);
  for (const Names& names : {torchrun, open_mpi, slurm}) {
    if (!environment.speaks(names)) continue;
    environment.need(names.rank, names);
    environment.need(names.ranks, names);
    Launch result;
    result.ranks = environment.number(names.ranks, 1, 1 << 16);
    result.rank = environment.number(names.rank, 0, result.ranks - 1);
    if (environment.has(names.local_rank)) {
      result.local_rank = environment.number(names.local_rank, 0, result.ranks - 1);
    }
    if (result.ranks == 1) return result;
    if (names.launcher == torchrun.launcher) {
      environment.need("MASTER_ADDR", names);
      environment.need("MASTER_PORT", names);
      result.served = environment.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
    }
    result.address = address_of(environment, names, result.ranks);
    if (environment.has("MASTER_PORT")) result.port = environment.number("MASTER_PORT", 1, 65'535);
    return result;
  }
  return {};
}

}  // namespace fathom
